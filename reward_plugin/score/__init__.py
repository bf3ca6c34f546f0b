"""`python -m reward_plugin score`: pictures in, rows of scores, a summary and a contact sheet out.

config.py   what can be asked for
command.py  the run, start to end
inputs.py   files, folders, globs and lists -> items
reading.py  items -> batches of decoded pictures, in threads, ahead of the scorer
alone.py    a picture by itself, after a scorer failed on its batch
identity.py which model and options made a score: what a resumed file must agree with
rows.py     the row of one picture, and what is recovered from one
output.py   JSONL, CSV and Parquet files that survive being killed
filters.py  'iaa>60 and iqa>=70'
summary.py  distribution of each dimension
show.py     aligned tables for a terminal
sheet.py    contact sheet of best and worst
"""
