"""Stand-in over the old publication."""

from __future__ import annotations

from contextlib import contextmanager

from lazychunks.storage.chunks.metadata import KEPT_BACK
from lazychunks.storage.places.destinations import LocalPath, located
from lazychunks.storage.places.publishing import publication_at


class _Draft:
    def __init__(self, pub, local):
        self.pub = pub
        self.local = local

    @property
    def where(self):
        return self.pub.where

    @property
    def is_committed(self):
        return self.pub.is_shown

    @property
    def can_be_kept(self):
        return self.pub.can_take_back

    @property
    def can_spill(self):
        return self.local

    def exists(self):
        return self.pub.has_leftovers()

    def begin(self):
        self.pub.begin()

    def keys(self, *, tidy=False):
        return list(self.pub.keys(tidy=tidy))

    def commit(self, documents, *, durable):
        import json

        if self.pub.can_take_back:
            self.where.write(KEPT_BACK, documents[""])
        self.pub.commit(json.loads(documents[""]), durable=durable)

    def discard(self):
        self.pub.discard()


class _Place:
    def __init__(self, place):
        self.place = place
        self.pub = None

    def __str__(self):
        return str(self.place)

    @property
    def is_seen_by_processes(self):
        return self.place.is_seen_by_processes

    def read(self, name):
        return self.place.read(name)

    def keys(self):
        return self.place.keys()

    def in_store(self, *, read_only):
        return self.place.in_store(read_only=read_only)

    def holds_array(self):
        return self.place.holds_array()

    def check_removable(self):
        if isinstance(self.place, LocalPath):
            self.place.check_removable()

    def draft(self, *, overwrite):
        self.pub = publication_at(self.place, overwrite=overwrite)
        return _Draft(self.pub, isinstance(self.place, LocalPath))

    @contextmanager
    def lock(self):
        try:
            self.pub.lock()
            yield
        finally:
            self.pub.unlock()


def resolve_destination(d):
    return _Place(located(d))
