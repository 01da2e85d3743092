"""Runs tests that Python packages carry: `OUTPUT KIND NAME…`. KIND is `unittest` (modules), `trial` (packages or modules, by
Twisted's loader) or `pytest` (packages). One line for each test goes to OUTPUT: its name and how it ended."""

import sys
import unittest


def by_unittest(output, names):
    from run_unittests import Result

    unittest.defaultTestLoader.loadTestsFromNames(names).run(Result(output))


def by_trial(output, names):
    from run_unittests import Result
    from twisted.trial.runner import TestLoader

    TestLoader().loadByNames(names, recurse=True).run(Result(output))


class Reports:
    """A plug-in of pytest that writes down each end. A test that fails while it is cleaned up after fails."""

    def __init__(self, output):
        self.output = output

    def pytest_runtest_logreport(self, report):
        if report.when != "call" and report.outcome == "passed":
            return
        how = {"passed": "ok"}.get(report.outcome, report.outcome)
        self.output.write(f"{report.nodeid}\t{how}\n")
        self.output.flush()
        if how == "failed":
            print(report.nodeid, report.longreprtext, file=sys.stderr)


def by_pytest(output, names):
    import pytest

    options = ["-q", "-p", "no:cacheprovider", "--pyargs"]
    pytest.main(options + names, plugins=[Reports(output)])


def main():
    path, kind, names = sys.argv[1], sys.argv[2], sys.argv[3:]
    run = {"unittest": by_unittest, "trial": by_trial, "pytest": by_pytest}[kind]
    with open(path, "w") as output:
        run(output, names)
        output.write("end\tok\n")


if __name__ == "__main__":
    main()
