"""Runs modules of CPython's own test suite: `OUTPUT MODULE [SKIP…]`. One line for each test goes to OUTPUT: its name
and how it ended. SKIP are parts of names of tests that are not run."""

import sys
import unittest

from test import support


class Result(unittest.TestResult):
    """Writes down each end; a test that fails in a subtest fails."""

    def __init__(self, output):
        super().__init__()
        self.output = output
        self.failed = set()

    def write(self, test, how, why=""):
        self.output.write(f"{test.id()}\t{how}\n")
        self.output.flush()
        if why:
            print(test.id(), how, why, file=sys.stderr)

    def startTest(self, test):
        super().startTest(test)
        print(test.id(), file=sys.stderr)

    def addSuccess(self, test):
        if test.id() not in self.failed:
            self.write(test, "ok")

    def addSkip(self, test, reason):
        self.write(test, "skipped")

    def addExpectedFailure(self, test, error):
        self.write(test, "ok")

    def addUnexpectedSuccess(self, test):
        self.write(test, "failed")

    def addFailure(self, test, error):
        self.write(test, "failed", self._exc_info_to_string(error, test))

    addError = addFailure

    def addSubTest(self, test, subtest, error):
        if error is not None and test.id() not in self.failed:
            self.failed.add(test.id())
            self.write(test, "failed", self._exc_info_to_string(error, test))


def chosen(suite, skip):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from chosen(test, skip)
        elif not any(part in test.id() for part in skip):
            yield test


def main():
    support.verbose = False
    support.failfast = False
    output_path, name, skip = sys.argv[1], sys.argv[2], sys.argv[3:]
    # The network of this module is the loopback; that of others would be the Internet.
    support.use_resources = ["network"] if name == "test_socketserver" else []
    suite = unittest.defaultTestLoader.loadTestsFromName("test." + name)
    with open(output_path, "w") as output:
        unittest.TestSuite(chosen(suite, skip)).run(Result(output))
        output.write("end\tok\n")


# Children of multiprocessing import this file.
if __name__ == "__main__":
    main()
