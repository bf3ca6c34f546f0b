"""Rewards that go wrong on the way."""

from reward_plugin.client import build_rewards


class Interrupted:
    """Real local rewards whose calls after the first few go wrong in a given way."""

    def __init__(self, config, after, spoil):
        self.inner, self.left, self.spoil = build_rewards(config), after, spoil

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.inner.close()

    def submit(self, images, prompts=None):
        self.left -= 1
        return (
            self.inner.submit(images, prompts) if self.left >= 0 else self.spoil(self.inner, images, prompts)
        )
