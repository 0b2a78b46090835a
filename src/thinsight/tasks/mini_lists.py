"""Write the lists of the ``mini`` rows of benchmarks (see `thinsight.tasks.mini`), to be kept in git.

python -m thinsight.tasks.mini_lists pope mme   writes data/mini/pope.txt and data/mini/mme.txt
"""

from thinsight.config.compose import load_config
from thinsight.errors import about, command
from thinsight.tasks.mini import list_file, shown, stratified, write_list
from thinsight.tasks.rows import load_rows


def main(arguments: list[str]) -> None:
    """TASK... [override...]: write the list of each task's mini rows, from data on the hub or in task.path."""
    names = [argument for argument in arguments if "=" not in argument]
    if not names or {"-h", "--help"} & set(names):
        print(f"usage: python -m thinsight.tasks.mini_lists TASK... [override...]: {about(main.__doc__)}")
        return
    for name in names:
        task = load_config([f"task={name}", *(argument for argument in arguments if "=" in argument)]).task
        rows = load_rows(task)
        ids = stratified((row.id, row.kind, row.group or row.id) for row in rows)
        write_list(list_file(name), ids)
        print(f"{shown(list_file(name))}: {len(ids)} of {len(rows)} rows")


if __name__ == "__main__":
    command(main)
