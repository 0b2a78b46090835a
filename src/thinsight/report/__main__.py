"""``python -m thinsight.report``: write a page or the index."""

import argparse
from pathlib import Path

from thinsight.errors import command
from thinsight.paths import ROOT
from thinsight.pipeline.plan import CONTENTS
from thinsight.report.page import page


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m thinsight.report", description="Pages of executed notebooks.")
    parser.add_argument("--runs", type=Path, default=ROOT / "data" / "runs", help="the runs that the pages are about")
    parser.add_argument("--pages", type=Path, default=ROOT / "data" / "pages", help="what the pages saved: the ledgers")
    parser.add_argument("--contents", type=Path, default=CONTENTS, help="the list of all pages")
    commands = parser.add_subparsers(dest="command", required=True)
    page_command = commands.add_parser("page", help="one executed notebook -> one page")
    page_command.add_argument("source", type=Path)
    page_command.add_argument("out", type=Path)
    index_command = commands.add_parser("index", help="the index over all pages")
    index_command.add_argument("reports", type=Path, nargs="?", default=ROOT / "reports")
    options = parser.parse_args(arguments)
    if options.command == "page":
        page(options.source, options.out, options.runs, options.contents)
    else:
        from thinsight.report.index import index  # it reads methods, so it imports torch, which takes seconds

        index(options.reports, options.runs, options.contents, options.pages)


if __name__ == "__main__":
    command(main)
