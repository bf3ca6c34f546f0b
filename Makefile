# make help lists the targets. Everything lives in $(VENV); nothing outside the repository is touched.

VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && exit; done; echo python3)
BIN := $(VENV)/bin

# After installation nothing goes to the network.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 WANDB_MODE=offline

.PHONY: help install demo test check format clean

help:
	@echo "make demo     install, post-train the pocket FLUX on two CPU cores, show before and after (about 10 minutes)"
	@echo "make test     install and run every test"
	@echo "make check    install; format, lint and types, without changing a file"
	@echo "make format   install and format"
	@echo "make install  create $(VENV); CUDA torch where there is an NVIDIA GPU, CPU torch elsewhere"
	@echo "make clean    remove $(VENV), caches and runs/demo"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml scripts/install.sh
	@scripts/install.sh $(VENV) $(PYTHON) ""
	@touch $@

# What only developers need comes on top, so that the demo does not wait for it.
$(VENV)/.installed-dev: pyproject.toml scripts/install.sh $(VENV)/.installed
	@scripts/install.sh $(VENV) $(PYTHON) dev
	@touch $@

demo: $(VENV)/.installed
	$(OFFLINE) $(BIN)/python -m pocket.demo $(ARGS)

test: $(VENV)/.installed-dev
	$(OFFLINE) $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache runs/demo *.egg-info build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
