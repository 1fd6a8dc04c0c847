"""Batches: files of requests that are made when there is time, some at once, in the order they came. Free of Ray.

    FOLDER/batch_….json    the record
    FOLDER/work/batch_…/   what its run has made so far

    validating ─► in_progress ─► finalizing ─► completed | expired
         │             └───────► cancelling ─► cancelled

Invariants: whenever the service is killed, the next one goes on where it was; a batch keeps the version of its model;
what was made before a batch was cancelled or expired is in its output file; a batch is seen by nobody but its owner.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from x2i_platform.errors import X2IError, from_text
from x2i_platform.files import publish
from x2i_platform.serving.batch_lines import ENDPOINTS, Refusal, count_lines, first_model
from x2i_platform.serving.batch_records import Batch, BatchTask, Ending, Runner, Status
from x2i_platform.serving.files import FileStore, StoredFile, new_id
from x2i_platform.serving.pinned import Pinned

POLL_S = 1.0
MAX_LINES = 50_000
"""As OpenAI's."""
MAX_UNFINISHED = 100
"""Of one owner."""
MAX_KEPT = 1000
"""Finished batches that are kept; the oldest goes first."""
MAX_DEATHS = 5
"""Runs of a batch that may die one after the other without a line done in between."""
LEFT_OUT: Mapping[Ending, str] = {
    "completed": "the line was not made; send it again",
    "cancelled": "the batch was cancelled before this line was made",
    "expired": "the batch expired before this line was made",
}
log = logging.getLogger(__name__)


class BatchRefusedError(Exception):
    """A batch that can't be accepted. `param` is the field at fault."""

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message)
        self.param = param


class Batches:
    """The batches of a service. `find` gives the model of a name as it is now, or of None the default."""

    def __init__(
        self,
        files: FileStore,
        runner: Runner,
        *,
        folder: Path,
        find: Callable[[str | None], Pinned | None],
        at_once: int = 1,
        poll_s: float = POLL_S,
    ) -> None:
        """Read the records of a folder, which is made if it is missing. Raises OSError."""
        self.files, self.runner, self.folder = files, runner, folder.absolute()
        self._find, self._at_once, self._poll_s = find, at_once, poll_s
        folder.mkdir(parents=True, exist_ok=True)
        found = [batch for batch in map(_read, folder.glob("batch_*.json")) if batch]
        self._batches = {batch.id: batch for batch in sorted(found, key=lambda each: (each.created_at, each.id))}
        self._deaths: Counter[str] = Counter()
        for batch in found:
            if batch.finished:
                self._clear(batch)

    def create(
        self, file: StoredFile, *, endpoint: str, hours: int, metadata: dict[str, str] | None, owner: str
    ) -> Batch:
        """Accept a batch. Raises BatchRefusedError."""
        if endpoint not in ENDPOINTS:
            message = f"{endpoint[:100]!r} is no endpoint of batches; there is {', '.join(ENDPOINTS)}"
            raise BatchRefusedError(message, param="endpoint")
        if file.purpose != "batch":
            raise BatchRefusedError(f"file {file.id} was not uploaded for a batch", param="input_file_id")
        if sum(not batch.finished for batch in self.list(owner=owner)) >= MAX_UNFINISHED:
            raise BatchRefusedError(f"{MAX_UNFINISHED} batches are waiting already", param="input_file_id")
        now = int(time.time())
        batch = Batch(
            id=f"batch_{secrets.token_hex(12)}",
            owner=owner,
            endpoint=endpoint,
            input_file_id=file.id,
            completion_window=f"{hours}h",
            created_at=now,
            expires_at=now + hours * 3600,
            metadata=metadata,
        )
        self._forget_old()
        self._write(batch)
        self._batches[batch.id] = batch
        return batch

    def get(self, batch_id: str, *, owner: str) -> Batch | None:
        """An owner's batch."""
        found = self._batches.get(batch_id)
        return found if found and found.owner == owner else None

    def list(self, *, owner: str) -> list[Batch]:
        """An owner's batches, the oldest first."""
        return [batch for batch in self._batches.values() if batch.owner == owner]

    def cancel(self, batch: Batch) -> None:
        """Have a batch end soon. One that has ended, or is ending, stays as it is."""
        if batch.status == "validating":
            batch.become("cancelling")
            self._end(batch, "cancelled")
        elif batch.status == "in_progress":
            batch.ending = "cancelled"
            batch.become("cancelling")
            self._write(batch)

    def uses(self, file: StoredFile) -> bool:
        """Whether a batch that has not ended reads a file."""
        return any(not batch.finished and batch.input_file_id == file.id for batch in self._batches.values())

    async def run(self) -> None:
        """Work at the batches until cancelled."""
        while True:
            await self.step()
            await asyncio.sleep(self._poll_s)

    async def step(self) -> None:
        """Take every batch that has not ended as far as it goes now."""
        for batch in [batch for batch in self._batches.values() if not batch.finished]:
            try:
                await self._advance(batch)
            except X2IError as error:
                await self._fail(batch, error)
            except Exception:  # the cluster may be about to come back
                log.exception("batch %s could not go on", batch.id)
                await self._died(batch)

    async def _advance(self, batch: Batch) -> None:
        if batch.status == "validating":
            await self._validate(batch)
        if batch.status == "in_progress":
            await self._watch(batch)
        if batch.status in ("finalizing", "cancelling"):
            await self._finalize(batch)

    async def _validate(self, batch: Batch) -> None:
        """Begin when it is this batch's turn."""
        if batch.model is None:
            await self._decide_model(batch)
        if batch.status == "validating" and batch.expires_at < time.time():
            self._end(batch, "expired")
        busy = sum(each.status in ("in_progress", "finalizing", "cancelling") for each in self._batches.values())
        if batch.status == "validating" and busy < self._at_once:
            batch.become("in_progress")
            self._write(batch)

    async def _decide_model(self, batch: Batch) -> None:
        path = str(self._input(batch))
        total = await asyncio.to_thread(count_lines, path)
        name = await asyncio.to_thread(first_model, path)
        pinned = self._find(name)
        if batch.finished:  # cancelled meanwhile
            return
        batch.total = total
        if not 0 < total <= MAX_LINES:
            await self._fail(batch, f"the file has {total:,} lines; a batch has 1 to {MAX_LINES:,}")
        elif pinned is None:
            why = f"there is no model {str(name)[:100]!r} here"
            await self._fail(batch, why, code="model_not_found", param="model")
        else:
            batch.model = asdict(pinned)
            self._write(batch)

    async def _watch(self, batch: Batch) -> None:
        if batch.expires_at < time.time():
            self._finalizing(batch, "expired")
            return
        state = await asyncio.to_thread(self.runner.poll, batch.id)
        if batch.status != "in_progress":  # cancelled meanwhile
            return
        if state is None:
            await self._died(batch)
            if not batch.finished:
                await asyncio.to_thread(self.runner.start, self._task(batch))
        elif state.error is not None:
            raise from_text(state.error)
        else:
            if state.completed + state.failed > batch.completed + batch.failed:
                self._deaths.pop(batch.id, None)
            batch.completed, batch.failed = state.completed, state.failed
            if state.finished:
                self._finalizing(batch, "completed")

    def _finalizing(self, batch: Batch, ending: Ending) -> None:
        batch.ending = ending
        batch.become("finalizing")
        self._write(batch)

    async def _finalize(self, batch: Batch) -> None:
        """Write the files, and end. Killed in between, it is done again with the same ids."""
        ending = batch.ending or "completed"
        await asyncio.to_thread(self.runner.cancel, batch.id)
        batch.reserved = batch.reserved or {"output": new_id(), "error": new_id()}
        self._write(batch)
        left_out = Refusal.of(LEFT_OUT[ending], code=f"batch_{ending}", status=None)
        results = await asyncio.to_thread(self.runner.finish, self._task(batch), left_out=left_out)
        for kind, path in (("output", results.output), ("error", results.errors)):
            if path is not None:
                name, file_id = f"{batch.id}_{kind}.jsonl", batch.reserved[kind]
                self.files.adopt(path, file_id=file_id, filename=name, owner=batch.owner)
                setattr(batch, f"{kind}_file_id", file_id)
        batch.completed, batch.failed = results.completed, results.failed
        self._end(batch, ending)

    async def _died(self, batch: Batch) -> None:
        """Count runs that died; the first start counts too."""
        self._deaths[batch.id] += 1
        if self._deaths[batch.id] > MAX_DEATHS:
            await self._fail(batch, "the run died again and again", code="server_error")

    async def _fail(
        self, batch: Batch, why: X2IError | str, *, code: str = "invalid_batch", param: str | None = None
    ) -> None:
        log.warning("batch %s failed: %s", batch.id, why)
        await asyncio.to_thread(self.runner.cancel, batch.id)
        # What is wrong with a model or a disk is the server's matter, and may name its paths.
        message = why if isinstance(why, str) else "the batch could not be run"
        batch.errors = [{"code": code, "message": message, "param": param, "line": None}]
        self._end(batch, "failed")

    def _end(self, batch: Batch, status: Status) -> None:
        batch.become(status)
        self._write(batch)
        self._deaths.pop(batch.id, None)
        self._clear(batch)

    def _task(self, batch: Batch) -> BatchTask:
        pinned = batch.pinned
        assert pinned is not None
        return BatchTask(batch.id, str(self._input(batch)), str(self._work(batch)), batch.endpoint, pinned)

    def _input(self, batch: Batch) -> Path:
        return self.files.folder.absolute() / f"{batch.input_file_id}.data"

    def _work(self, batch: Batch) -> Path:
        return self.folder / "work" / batch.id

    def _clear(self, batch: Batch) -> None:
        shutil.rmtree(self._work(batch), ignore_errors=True)

    def _write(self, batch: Batch) -> None:
        publish(self.folder / f"{batch.id}.json", json.dumps(batch.record()).encode(), durable=True)

    def _forget_old(self) -> None:
        finished = [batch for batch in self._batches.values() if batch.finished]
        for batch in finished[: max(0, len(finished) - MAX_KEPT)]:
            del self._batches[batch.id]
            (self.folder / f"{batch.id}.json").unlink(missing_ok=True)


def _read(path: Path) -> Batch | None:
    """A record; None for a file that isn't one, which is left alone."""
    try:
        return Batch(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        log.warning("%s is no record of a batch", path.name)
        return None
