"""The feature store: which samples are planned, which shards are committed, and by which recipe.

    store.json                       format and fingerprint, written once
    TABLE/SHARD-SHA.parquet          data; the name carries the content's hash
    commits/TABLE/SHARD.json         commit record; a data file counts only if its record exists
    quarantine/…                     rows that could not be processed, with the reason
    manifest.json                    summary derived from the commits

Invariants: a commit record is created once and never changed, so if several processes compute one shard, one wins and
the others' files are dropped; readers open only committed files; table `samples` is the plan, and shard k of every
other table holds a subset of the ids in its shard k.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from x2i_platform.digests import differences, digest
from x2i_platform.errors import StoreError
from x2i_platform.features.files import Files
from x2i_platform.features.schema import FEATURE_TABLES, FORMAT, SAMPLES

Fingerprint = dict[str, dict[str, Any]]
"""Everything that changes the numbers of each table: `{"text": {...}, "mllm": {...}, "targets": {...}}`."""

STORE_FILE = "store.json"
MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class Commit:
    """One committed shard of one table."""

    table: str
    shard: int
    file: str
    sha256: str
    num_bytes: int
    rows: int
    samples: int
    ids_digest: str
    quarantined: tuple[str, ...]
    """Ids of the shard's samples that this table quarantined."""
    committed_at: str
    seconds: float
    fingerprint: str | None = None
    """Digest of the store's fingerprint at the time of writing; None in older records."""

    @property
    def record(self) -> str:
        """Name of the commit record."""
        return record_name(self.table, self.shard)

    def to_json(self) -> bytes:
        """Serialize the record."""
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes, *, name: str) -> Commit:
        """Parse a record. Raises StoreError that names it if it is damaged or belongs to another shard."""
        try:
            commit = _COMMIT.validate_json(data, strict=True)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"]) or "content"
            raise StoreError(f"commit record '{name}' is damaged ({where}: {problem['msg']}){cure(name)}") from None
        if commit.record != name:
            raise StoreError(f"commit record '{name}' is damaged (it is that of '{commit.record}'){cure(name)}")
        return commit


_COMMIT = TypeAdapter(Commit)


@dataclass(frozen=True)
class Manifest:
    """All commit records of a store at one moment."""

    fingerprint: Fingerprint
    commits: tuple[Commit, ...]

    @property
    def digest(self) -> str:
        """Identity of the data: it changes with every committed shard."""
        return digest([self.fingerprint, [[c.table, c.shard, c.sha256] for c in self.commits]])

    def of(self, table: str) -> dict[int, Commit]:
        """Return one table's commits by shard."""
        return {commit.shard: commit for commit in self.commits if commit.table == table}

    def incomplete_shards(self) -> dict[int, list[str]]:
        """Return the shards that some tables lack, with those tables. A gap in the numbers counts too."""
        of = {table: self.of(table) for table in (SAMPLES, *FEATURE_TABLES)}
        last = max((shard for commits in of.values() for shard in commits), default=-1)
        lacking = {shard: [table for table in of if shard not in of[table]] for shard in range(last + 1)}
        return {shard: tables for shard, tables in lacking.items() if tables}

    def complete_shards(self) -> list[int]:
        """Return the planned shards that every feature table holds, sorted."""
        return sorted(set.intersection(*(set(self.of(table)) for table in (SAMPLES, *FEATURE_TABLES))))

    def quarantined(self) -> set[str]:
        """Return the ids that some table quarantined."""
        return {sample for commit in self.commits for sample in commit.quarantined}

    def summary(self) -> dict[str, Any]:
        """Return the content of `manifest.json`."""
        tables = {table: self.of(table).values() for table in (SAMPLES, *FEATURE_TABLES)}
        return {
            "format": FORMAT,
            "digest": self.digest,
            "fingerprint": self.fingerprint,
            "tables": {
                table: {
                    "shards": len(commits),
                    "samples": sum(c.samples for c in commits),
                    "rows": sum(c.rows for c in commits),
                    "bytes": sum(c.num_bytes for c in commits),
                }
                for table, commits in tables.items()
            },
            "files": [{"file": c.file, "sha256": c.sha256, "rows": c.rows, "bytes": c.num_bytes} for c in self.commits],
        }


class FeatureStore:
    """A folder of committed shards, local or on an object store."""

    def __init__(self, root: str, *, fingerprint: Fingerprint) -> None:
        self.files = Files(root)
        self.fingerprint = fingerprint

    @classmethod
    def open(cls, root: str) -> FeatureStore:
        """Open an existing store. Raises StoreError if there is none."""
        header = _read_header(Files(root))
        if header is None:
            raise StoreError(f"'{root}' holds no feature store; make one with `x2i-platform precompute`")
        return cls(root, fingerprint=header)

    @classmethod
    def create(cls, root: str, *, fingerprint: Fingerprint) -> FeatureStore:
        """Create or open a store for this fingerprint. Raises StoreError if the existing one has another."""
        store = cls(root, fingerprint=fingerprint)
        cls.check(root, fingerprint=fingerprint)
        header = {"format": FORMAT, "fingerprint": fingerprint}
        if not store.files.publish_new(STORE_FILE, json.dumps(header, indent=1).encode()):
            store.require(fingerprint)
        return store

    @classmethod
    def check(cls, root: str, *, fingerprint: Fingerprint) -> None:
        """Raise StoreError if there is a store, whole or damaged, with another fingerprint. Writes nothing."""
        if _read_header(Files(root)) is not None:
            cls.open(root).require(fingerprint)
        else:
            # The header is missing: compare the fingerprints in the commit records.
            for commit in cls(root, fingerprint=fingerprint).commits():
                if commit.fingerprint is None:
                    raise StoreError(
                        f"'{root}' lacks '{STORE_FILE}', without which its shards can't be told; restore it"
                    )

    def require(self, fingerprint: Fingerprint) -> None:
        """Raise StoreError that names the differing fields unless the store has this fingerprint."""
        found = _read_header(self.files)
        if found is not None and (unequal := differences(fingerprint, found, where="in the store")):
            raise StoreError(f"store '{self.files.url}' was made by another recipe: {'; '.join(unequal)}")

    def commits(self, tables: Iterable[str] = (SAMPLES, *FEATURE_TABLES)) -> list[Commit]:
        """Read all commits of the tables, in order of table and shard."""
        ranks = {table: rank for rank, table in enumerate(tables)}
        names = [name for table in ranks for name in self.files.names(f"commits/{table}", suffix=".json")]
        contents = self.files.read_many(names)
        found = [self._parse(data, name=name) for name, data in zip(names, contents, strict=True)]
        return sorted(found, key=lambda commit: (ranks[commit.table], commit.shard))

    def record_names(self) -> list[str]:
        """Return the names of the commit records of all tables."""
        tables = (SAMPLES, *FEATURE_TABLES)
        return [name for table in tables for name in self.files.names(f"commits/{table}", suffix=".json")]

    def commit_of(self, table: str, shard: int) -> Commit | None:
        """Return the commit of one shard, or None if it is not committed."""
        name = record_name(table, shard)
        return self._parse(self.files.read(name), name=name) if self.files.exists(name) else None

    def _parse(self, data: bytes, *, name: str) -> Commit:
        commit = Commit.from_json(data, name=name)
        if commit.fingerprint not in (None, digest(self.fingerprint)):
            raise StoreError(
                f"commit record '{name}' of store '{self.files.url}' was made by another recipe than this one; restore "
                f"'{STORE_FILE}', or use another store"
            )
        return commit

    def manifest(self) -> Manifest:
        """Read the manifest from the current commit records."""
        return Manifest(self.fingerprint, tuple(self.commits()))

    def whole_manifest(self) -> Manifest:
        """Return the manifest if nothing is missing. Raises StoreError that names the missing shards and the remedy.

        If all records of a shard are lost, `manifest.json` of the last finished run still lists it.
        """
        manifest = self.manifest()
        if incomplete := manifest.incomplete_shards():
            shards = ", ".join(f"{shard} ({', '.join(tables)})" for shard, tables in list(incomplete.items())[:5])
            more = f" and {len(incomplete) - 5} more" if len(incomplete) > 5 else ""
            plans_lost = any(SAMPLES in tables for tables in incomplete.values())
            raise StoreError(
                f"store '{self.files.url}' lacks commit records of shards {shards}{more}; "
                + (f"restore 'commits/{SAMPLES}' from a copy" if plans_lost else "rerun the same precompute command")
            )
        if lost := sorted(self._summarized_records() - {commit.record for commit in manifest.commits}):
            raise StoreError(
                f"store '{self.files.url}' lacks '{lost[0]}'{f' and {len(lost) - 1} more' if len(lost) > 1 else ''}, "
                f"which '{MANIFEST_FILE}' counts; rerun the same precompute command"
            )
        return manifest

    def _summarized_records(self) -> set[str]:
        """Return the names of the commit records that `manifest.json` lists."""
        if not self.files.exists(MANIFEST_FILE):
            return set()
        try:
            files = [entry["file"] for entry in json.loads(self.files.read(MANIFEST_FILE))["files"]]
            return {f"commits/{file.rpartition('-')[0]}.json" for file in files}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise StoreError(
                f"'{self.files.path(MANIFEST_FILE)}' is damaged; rerun precompute, which writes it anew"
            ) from None

    def publish_manifest(self) -> Manifest:
        """Write `manifest.json` for people and other tools, and delete data files that can't be committed any more."""
        manifest = self.manifest()
        self._drop_leftovers(manifest)
        self.files.publish(MANIFEST_FILE, json.dumps(manifest.summary(), indent=1).encode())
        return manifest

    def _drop_leftovers(self, manifest: Manifest) -> None:
        """Delete uncommitted data files of committed shards, which killed writers left.

        Other tools that read `TABLE/*.parquet` would otherwise see such a shard twice.
        """
        for table in (SAMPLES, *FEATURE_TABLES):
            committed = {f"{shard:06d}": commit.file for shard, commit in manifest.of(table).items()}
            for name in self.files.names(table, suffix=".parquet"):
                shard = name.removeprefix(f"{table}/").partition("-")[0]
                if committed.get(shard, name) != name:
                    self.files.remove(name)


def record_name(table: str, shard: int) -> str:
    """Return the name of a shard's commit record."""
    return f"commits/{table}/{shard:06d}.json"


def cure(record: str) -> str:
    """Return the remedy for a damaged shard. A plan can't be made again, because the other tables have its shards."""
    if record.startswith(f"commits/{SAMPLES}/"):
        return "; restore it from a copy, or make a new store"
    return f"; delete '{record}' and rerun precompute"


def _read_header(files: Files) -> Fingerprint | None:
    if not files.exists(STORE_FILE):
        return None
    damaged = StoreError(f"'{files.path(STORE_FILE)}' is damaged: expected JSON with format and fingerprint")
    try:
        header = json.loads(files.read(STORE_FILE))
    except (ValueError, RecursionError):
        raise damaged from None
    if not isinstance(header, dict) or "format" not in header:
        raise damaged
    if header["format"] != FORMAT:
        raise StoreError(f"store '{files.url}' has format {header['format']}; this version reads format {FORMAT}")
    fingerprint = header.get("fingerprint")
    if not isinstance(fingerprint, dict) or not all(isinstance(part, dict) for part in fingerprint.values()):
        raise damaged
    return fingerprint
