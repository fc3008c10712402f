"""A PostgreSQL of the tests' own, on a free port, that can go away and come back."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

import sqlalchemy as sa

from tests.ports import free_port
from tests.waiting import wait_until

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
"""Where Debian puts its newest version."""

USER = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
"""It refuses to run as root."""


class PostgreSQL:
    """The server, running."""

    def __init__(self) -> None:
        assert PROGRAMS, "these tests need PostgreSQL"
        self._folder = Path(tempfile.mkdtemp(prefix="nrp_postgresql_"))
        shutil.chown(self._folder, USER)
        self._port = free_port()
        self._run("initdb", "--auth=trust", "--no-sync", f"--pgdata={self._folder}/data", f"--username={USER}")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        assert PROGRAMS
        subprocess.run([PROGRAMS / program, *arguments], check=True, capture_output=True, user=USER, cwd=self._folder)

    def start(self) -> None:
        """Run, and return when it takes connections."""
        assert PROGRAMS
        options = ["-D", f"{self._folder}/data", "-p", str(self._port), "-k", str(self._folder), "-h", "127.0.0.1"]
        self._process = subprocess.Popen(
            [PROGRAMS / "postgres", *options],
            user=USER,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._answers, 30)

    def stop(self) -> None:
        """Go away at once; what was committed stays."""
        if self._process is not None:
            self._process.send_signal(3)  # its "immediate shutdown": children end, too
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"nrp_{uuid.uuid4().hex[:8]}"
        engine = sa.create_engine(self._url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self._url(name)

    def _url(self, database: str) -> str:
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self._port}/{database}"

    def _answers(self) -> bool:
        engine = sa.create_engine(self._url("postgres"), connect_args={"connect_timeout": 1})
        try:
            engine.connect().close()
        except sa.exc.OperationalError:
            return False
        finally:
            engine.dispose()
        return True
