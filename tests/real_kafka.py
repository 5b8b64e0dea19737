"""A real Apache Kafka for tests and benchmarks: one KRaft node on loopback, without Docker.

`python -m tests.real_kafka --fetch` only fills the cache of jars, `python -m tests.real_kafka` runs
a broker until Ctrl-C and prints its address.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

__all__ = ["Broker", "fetch_jars", "kafka"]

_ROOT: Final = Path(__file__).resolve().parents[1]
_POM: Final = Path(__file__).resolve().parent / "kafka" / "pom.xml"
_CACHE: Final = _ROOT / ".cache" / "kafka"
_CLUSTER_ID: Final = "dmVsdmV0cm9wZS10ZXN0cw"
# Class-data sharing and the first compiler tier only: a test's broker lives for seconds.
_JVM: Final = (
    "-Xms64m",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Xshare:auto",
)
_LOG4J: Final = """\
Configuration:
  Appenders:
    Console:
      name: out
      PatternLayout: {pattern: "%d %p %m (%c)%n"}
  Loggers:
    Root: {level: WARN, AppenderRef: {ref: out}}
"""


class Broker:
    """One broker with a log folder of its own, which survives `kill` and a second `start`.

    Attributes:
        bootstrap: `host:port` for clients.
        pid: of the Java process, None while it is down.
    """

    def __init__(self, folder: Path, *, partitions: int = 8, heap_mb: int = 400) -> None:
        """Lay out the folder; nothing runs until `start`.

        Args:
            folder: for data, configuration and the broker's own log.
            partitions: what a topic gets that nobody created explicitly.
            heap_mb: the JVM's heap.
        """
        self._folder = folder
        self._heap_mb = heap_mb
        self._port, controller = _free_ports(2)
        self.bootstrap = f"127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._config = folder / "server.properties"
        self._config.write_text(
            "\n".join(
                f"{key}={value}"
                for key, value in {
                    "process.roles": "broker,controller",
                    "node.id": 1,
                    "controller.quorum.voters": f"1@127.0.0.1:{controller}",
                    "listeners": f"PLAINTEXT://{self.bootstrap},"
                    f"CONTROLLER://127.0.0.1:{controller}",
                    "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
                    "controller.listener.names": "CONTROLLER",
                    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
                    "log.dirs": folder / "data",
                    "num.partitions": partitions,
                    "auto.create.topics.enable": "false",
                    "offsets.topic.replication.factor": 1,
                    "offsets.topic.num.partitions": 1,
                    "transaction.state.log.replication.factor": 1,
                    "transaction.state.log.min.isr": 1,
                    "transaction.state.log.num.partitions": 1,
                    # Groups settle at once and notice a killed member in a second or two.
                    "group.initial.rebalance.delay.ms": 0,
                    "group.min.session.timeout.ms": 500,
                    # A killed broker may register again once its old session has run out.
                    "broker.session.timeout.ms": 1000,
                    "broker.heartbeat.interval.ms": 200,
                    "num.network.threads": 2,
                    "num.io.threads": 4,
                    "log.cleaner.dedupe.buffer.size": 8 << 20,
                    "offsets.load.buffer.size": 1 << 20,
                }.items()
            )
            + "\n"
        )
        (folder / "log4j2.yaml").write_text(_LOG4J)
        self._java = _program("java", "a Java runtime (Debian: default-jre-headless)")
        self._classpath = f"{fetch_jars()}/*"
        format_ = self._run("kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c")
        if format_.wait() != 0:
            raise RuntimeError(f"Kafka could not format its folder; see {folder / 'broker.log'}.")

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self, timeout_s: float = 60.0) -> None:
        """Start the broker and return once its admin API answers.

        Raises:
            RuntimeError: it ended, or did not answer in `timeout_s`.
        """
        self._process = self._run("kafka.Kafka")
        deadline = time.monotonic() + timeout_s
        while True:
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = (self._folder / "broker.log").read_text(errors="replace")[-2000:]
                self.kill()
                raise RuntimeError(f"Kafka did not start; its log ends with: {tail}")
            with contextlib.suppress(OSError, KafkaError):
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
                admin = KafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=5000)
                try:
                    admin.list_topics()
                    return
                finally:
                    admin.close()
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. The data stays."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _run(self, main: str, *args: str) -> subprocess.Popen[bytes]:
        with (self._folder / "broker.log").open("ab") as log:
            return subprocess.Popen(
                [
                    self._java,
                    *_JVM,
                    f"-Xmx{self._heap_mb}m",
                    f"-Dlog4j2.configurationFile={self._folder / 'log4j2.yaml'}",
                    "-cp",
                    self._classpath,
                    main,
                    *args,
                    str(self._config),
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )


@contextlib.contextmanager
def kafka(partitions: int = 8, *, heap_mb: int = 400) -> Iterator[Broker]:
    """A running broker with an empty log, gone with its data at the end.

    Raises:
        RuntimeError: Java or Maven is missing, or the broker does not start.
    """
    folder = Path(tempfile.mkdtemp(prefix="velvetrope-kafka-"))
    broker: Broker | None = None
    try:
        broker = Broker(folder, partitions=partitions, heap_mb=heap_mb)
        broker.start()
        yield broker
    finally:
        if broker is not None:
            broker.kill()
        shutil.rmtree(folder, ignore_errors=True)


def fetch_jars() -> Path:
    """The folder of Kafka's jars, filled by Maven the first time.

    Raises:
        RuntimeError: Maven is missing or could not fetch them.
    """
    done = _CACHE / "complete"
    if done.exists() and done.read_bytes() == _POM.read_bytes():
        return _CACHE / "jars"
    maven = _program("mvn", "Apache Maven (Debian: maven)")
    _CACHE.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(_CACHE / "jars", ignore_errors=True)
    result = subprocess.run(
        [
            maven,
            "--quiet",
            "--batch-mode",
            "-f",
            str(_POM),
            "dependency:copy-dependencies",
            f"-DoutputDirectory={_CACHE / 'jars'}",
            "-DincludeScope=runtime",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise RuntimeError(f"Maven could not fetch Kafka's jars: {result.stdout[-500:]}")
    done.write_bytes(_POM.read_bytes())
    return _CACHE / "jars"


def _program(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise RuntimeError(f"The tests need {package}, and `{name}` is not on the PATH.")
    return path


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _main() -> None:
    if sys.argv[1:] == ["--fetch"]:
        sys.stdout.write(f"{fetch_jars()}\n")
        return
    with kafka() as broker, contextlib.suppress(KeyboardInterrupt):
        sys.stdout.write(f"{broker.bootstrap}\n")
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    try:
        _main()
    except RuntimeError as error:
        sys.exit(str(error))
