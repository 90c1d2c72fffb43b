"""
Locust's part: its command line, its events, one process or many, and the code that the process ends with.

Workers offer their shares and send what they saw; the master, or a process that is alone, judges it.
"""

import logging
import sys
from argparse import ArgumentParser
from typing import Any, Final

import gevent
from locust import events
from locust.env import Environment
from locust.runners import LocalRunner, MasterRunner, WorkerRunner

from loadtests import report
from loadtests.judge import EXIT_CODES, Verdict, judge
from loadtests.options import BadOption, Told, add_options, read_options
from loadtests.record import Record, from_plain
from loadtests.slo import Slo
from loadtests.users import Load, Part

__all__ = ["Load"]  # scenario files take it from here, so that what follows is registered

_LOG: Final = logging.getLogger(__name__)
_MESSAGE: Final = "load-record"
_SLACK_S: Final = 30.0  # for the last answers of the slowest worker to arrive
_USAGE: Final = 2


def _add_options(parser: ArgumentParser, **_: Any) -> None:
    add_options(parser)


def _prepare(environment: Environment, **_: Any) -> None:
    """Check what was told, and listen; ends the process with 2 for a mistake."""
    if isinstance(environment.runner, WorkerRunner):
        _Worker(environment, environment.runner)
        return
    options: Any = environment.parsed_options
    try:
        _checked(environment)
    except BadOption as err:
        sys.stderr.write(f"{err}\n")
        sys.exit(_USAGE)
    options.num_users = options.num_users or options.expect_workers
    options.spawn_rate = options.spawn_rate or options.num_users  # all at once
    _Run(environment)


_EVENTS: Final[Any] = events  # Locust gives them no types
_EVENTS.init_command_line_parser.add_listener(_add_options)
_EVENTS.init.add_listener(_prepare)


def _checked(environment: Environment) -> Told:
    options: Any = environment.parsed_options
    told = read_options(options)
    for user in environment.user_classes:
        if issubclass(user, Load) and "{model}" in user.scenario.route and not told.model:
            raise BadOption(f"--model: {user.scenario.route} needs a name")
    if options.headless and not environment.host:
        raise BadOption("--host: where is the server?")
    if options.run_time:
        raise BadOption("--run-time: --duration says how long; a run that is cut short cannot be judged")
    return told


class _Worker:
    """A worker's side: offers its shares, and sends what it saw when the last of them is done."""

    def __init__(self, environment: Environment, runner: WorkerRunner) -> None:
        self._environment = environment
        self._runner = runner
        heard: Any = environment.events
        heard.test_start.add_listener(self._start)
        heard.quitting.add_listener(self._quit)

    def _start(self, **_: Any) -> None:
        options: Any = self._environment.parsed_options
        Load.part = None  # not the last run's, should this one's options be bad
        Load.part = Part(
            read_options(options), options.shares, self._runner.worker_index, options.workers, on_done=self._done
        )

    def _done(self) -> None:
        if Load.part is not None and Load.part.record.shares == self._runner.target_user_count:
            self._runner.send_message(_MESSAGE, Load.part.record.plain())

    def _quit(self, **_: Any) -> None:
        self._environment.process_exit_code = 0  # the master's is the one that counts


class _Run:
    """The judging side: starts what runs here, adds up what was seen, and says what it means."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._runner = environment.runner
        self._told: Told | None = None
        self._record = Record()
        self._shares = 0
        self._verdict: Verdict | None = None
        self._watch: gevent.Greenlet | None = None
        heard: Any = environment.events
        heard.test_start.add_listener(self._start)
        heard.test_stop.add_listener(self._stop)
        heard.quitting.add_listener(self._quit)
        if isinstance(self._runner, MasterRunner):
            self._runner.register_message(_MESSAGE, self._add)

    def _start(self, **_: Any) -> None:
        """Begin anew: the web page may start one run after another, with other options."""
        self._told, self._verdict, self._record, Load.part = None, None, Record(), None
        try:
            self._told = _checked(self._environment)
        except BadOption as err:
            _LOG.error("%s", err)
            gevent.spawn(self._end)
            return
        assert self._runner is not None
        options: Any = self._environment.parsed_options
        self._shares = options.shares = self._runner.target_user_count
        if isinstance(self._runner, LocalRunner):
            Load.part = Part(self._told, self._shares, 0, 1, on_done=self._done, record=self._record)
        elif isinstance(self._runner, MasterRunner):
            options.workers = self._runner.worker_count
        self._watch = gevent.spawn_later(self._told.plan.whole_s + self._told.timeout_s + _SLACK_S, self._end)

    def _add(self, msg: Any, **_: Any) -> None:
        self._record.merge(from_plain(msg.data))
        self._done()

    def _done(self) -> None:
        if self._record.shares >= self._shares:
            gevent.spawn(self._end)  # not by a user, which would be ended with the others

    def _end(self) -> None:
        assert self._runner is not None
        if getattr(self._environment.parsed_options, "headless", False):
            self._runner.quit()
        else:
            self._runner.stop()

    def _stop(self, **_: Any) -> None:
        if self._watch is not None and self._watch is not gevent.getcurrent():
            self._watch.kill(block=False)
        if self._told is None or self._verdict is not None:
            return
        self._verdict = judge(self._record, self._told.plan, self._told.slo or Slo({}), shares=self._shares)
        document = report.document(self._verdict, self._record, self._told, str(self._environment.host))
        sys.stdout.write(report.words(document))
        if self._told.report is not None:
            for path in report.write(document, self._told.report):
                _LOG.info("wrote %s", path)

    def _quit(self, **_: Any) -> None:
        self._environment.process_exit_code = (
            EXIT_CODES["invalid"] if self._verdict is None else self._verdict.exit_code
        )
