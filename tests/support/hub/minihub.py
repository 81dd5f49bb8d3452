#!/usr/bin/env python3
"""minihub: a small Hugging-Face-Hub-compatible server for tests.  Standard library only.

    python minihub.py --root DIR --port 8765 [--token alice:hf_alice[:write|read]] [--org lab:alice,bob] ...
    export HF_ENDPOINT=http://127.0.0.1:8765 HF_TOKEN=hf_alice HF_HUB_DISABLE_XET=1

Repositories (dataset/model/space) with real git object ids (blob/tree/commit sha1), branches and tags; LFS batch with
signed one-part and multipart uploads checked against their sha256; commits; tree/paths-info/info; resolve with a
redirect to a signed "CDN" URL on a second port; byte ranges.  A small Xet CAS (xorbs, shards, reconstructions, v1 API)
serves the client's default upload path too: leave HF_HUB_DISABLE_XET unset to use it; a commit then reassembles every
new Xet file and checks its sha256.  Everything is on disk under --root and survives a kill.

Faults: --fault 'REGEX;ACTION[;key=value...]' (repeatable), $MINIHUB_FAULTS (JSON list), or at run time
POST /_minihub/faults.  REGEX is searched in "METHOD /raw/path?query".  Common keys: times (default 1, -1 = always),
skip (let the first N matches pass), prob, seed.  Actions:
    status;code=503;retry_after=1;body=...   answer that status before the request is handled (body is read first
                                             unless read=0)
    reset;after=N        read N request-body bytes, then reset the connection (RST)
    stall;after=N;seconds=S   read N request-body bytes, sleep S, then close
    lost                 handle the request completely, then reset instead of answering
    cut;after=N[;fin=1]  answer, but reset (or close, with fin=1) after N response-body bytes
    flip;at=N            flip one bit of response-body byte N
    delay;seconds=S      sleep, then go on
    throttle;bps=N       read the request body / write the response body at N bytes per second
    expire               treat the signed URL of this request as expired (403)
    logout               treat the token of this request as invalid (401)
    frame;retryable=1    (POST /v2/shards) 200 whose last line is an error frame

Control (loopback only, no token): GET /_minihub/stats, /_minihub/log, POST /_minihub/reset,
GET|POST|DELETE /_minihub/faults.
"""

import argparse
import base64
import collections
import email.utils
import fnmatch
import hashlib
import hmac
import json
import os
import random
import re
import secrets
import shutil
import socket
import socketserver
import struct
import sys
import tempfile
import threading
import time
from datetime import datetime
from datetime import timezone
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs
from urllib.parse import parse_qsl
from urllib.parse import quote
from urllib.parse import unquote
from urllib.parse import urlencode
from urllib.parse import urlsplit

try:                                    # only to fill cardData; huggingface_hub brings it along
    import yaml
except ImportError:
    yaml = None
try:                                    # only a faster LZ4 for Xet chunks; datasets brings it along
    import pyarrow
except ImportError:
    pyarrow = None

TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}
CHUNK = 1 << 18
LFS_SUFFIXES = ("7z arrow bin bz2 ckpt ftz gz h5 joblib lz4 mds mlmodel model msgpack npy npz onnx ot parquet pb pickle "
                "pkl pt pth rar safetensors tar tflite tgz wasm xz zip zst pcm sam raw aac flac mp3 ogg wav bmp gif "
                "png tiff jpg jpeg webp mp4 webm").split()
GITATTRIBUTES = "".join(f"*.{s} filter=lfs diff=lfs merge=lfs -text\n" for s in LFS_SUFFIXES)


# ------------------------------------------------------------------------------------------------ git object ids
def git_oid(kind, data):
    return hashlib.sha1(b"%s %d\0" % (kind, len(data)) + data).hexdigest()


def pointer(sha, size):
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize {size}\n".encode()


def git_trees(files):
    """{path: blob oid} -> {directory path: tree oid} ('' is the root)."""
    dirs = {"": {}}
    for path, oid in files.items():
        parts = path.split("/")
        for i in range(len(parts)):
            here, name = "/".join(parts[:i]), parts[i]
            dirs.setdefault(here, {})[name] = ("100644", oid) if i == len(parts) - 1 else ("40000", None)
    out = {}
    for d in sorted(dirs, key=lambda s: -(s.count("/") + (s != ""))):
        ents = []
        for name, (mode, oid) in dirs[d].items():
            if oid is None:
                oid = out[f"{d}/{name}" if d else name]
            ents.append((name + ("/" if mode == "40000" else ""), mode, name, oid))
        ents.sort(key=lambda e: e[0].encode())
        out[d] = git_oid(b"tree", b"".join(f"{m} {n}".encode() + b"\0" + bytes.fromhex(o) for _, m, n, o in ents))
    return out


def iso(t):
    return datetime.fromtimestamp(t, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def read_bytes(path):
    with open(path, "rb") as f:
        return f.read()


def write_atomic(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd, tmp = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".tmp")
    with os.fdopen(fd, "wb") as f:
        f.write(data)
    os.replace(tmp, path)


class ApiError(Exception):
    def __init__(self, status, message, code=None, body=None, headers=None):
        self.status, self.message, self.code, self.body, self.headers = status, message, code, body, headers or {}


# ------------------------------------------------------------------------------------------------ storage
class Repo:
    """One repository: settings + refs in meta.json, one JSON file per commit (whole tree: path -> entry).

    entry = {"oid": git blob sha1, "size": n, "lfs": sha256 or None}
    """

    def __init__(self, store, rtype, rid):
        self.store, self.type, self.id = store, rtype, rid
        self.dir = os.path.join(store.root, "repos", rtype, *rid.split("/"))
        self.meta = json.loads(read_bytes(os.path.join(self.dir, "meta.json")))
        self.cache, self.trees, self.last = {}, {}, {}
        self.lock = threading.RLock()

    def save(self):
        write_atomic(os.path.join(self.dir, "meta.json"), json.dumps(self.meta).encode())

    def commit(self, sha):
        if sha not in self.cache:
            try:
                with open(os.path.join(self.dir, "commits", sha + ".json")) as f:
                    self.cache[sha] = json.load(f)
            except FileNotFoundError:
                raise ApiError(404, f"Invalid rev id: {sha}", "RevisionNotFound")
        return self.cache[sha]

    def resolve(self, rev):
        m = self.meta
        for name in (rev, rev[len("refs/heads/"):] if rev.startswith("refs/heads/") else rev):
            if name in m["branches"]:
                return m["branches"][name]
        tag = rev[len("refs/tags/"):] if rev.startswith("refs/tags/") else rev
        if tag in m["tags"]:
            return m["tags"][tag]
        if re.fullmatch(r"[0-9a-f]{5,40}", rev):
            hit = [f[:-5] for f in os.listdir(os.path.join(self.dir, "commits")) if f.startswith(rev)]
            if len(hit) == 1:
                return hit[0]
        raise ApiError(404, f"Invalid rev id: {rev}", "RevisionNotFound")

    def dir_oids(self, sha):
        if sha not in self.trees:
            self.trees[sha] = git_trees({p: e["oid"] for p, e in self.commit(sha)["tree"].items()})
        return self.trees[sha]

    def add_commit(self, branch, files, title, message, author, parent):
        now = int(time.time())
        trees = git_trees({p: e["oid"] for p, e in files.items()})
        who = f"{author} <{author}@minihub.invalid> {now} +0000"
        text = f"tree {trees['']}\n" + (f"parent {parent}\n" if parent else "") + \
            f"author {who}\ncommitter {who}\n\n{title}\n\n{message}\n"
        if os.path.exists(os.path.join(self.dir, "commits", git_oid(b"commit", text.encode()) + ".json")):
            text += f"\nnonce {secrets.token_hex(8)}\n"          # same second, same tree: keep ids distinct
        sha = git_oid(b"commit", text.encode())
        c = {"id": sha, "parent": parent, "title": title, "message": message, "author": author, "time": now,
             "tree": files}
        write_atomic(os.path.join(self.dir, "commits", sha + ".json"), json.dumps(c).encode())
        self.cache[sha], self.trees[sha] = c, trees
        self.meta["branches"][branch] = sha
        self.meta["modified"] = now
        self.save()
        return sha

    def log(self, sha):
        while sha:
            c = self.commit(sha)
            yield c
            sha = c["parent"]

    def last_commits(self, sha):
        """path (files and directories) -> commit that last changed it"""
        if sha not in self.last:
            res, want = {}, None
            for c in self.log(sha):
                prev = self.commit(c["parent"])["tree"] if c["parent"] else {}
                want = set(self.commit(sha)["tree"]) if want is None else want
                for p in [p for p in want if c["tree"].get(p) != prev.get(p)]:
                    want.discard(p)
                    parts = p.split("/")
                    for i in range(1, len(parts) + 1):
                        res.setdefault("/".join(parts[:i]), c)
                if not want:
                    break
            self.last[sha] = res
        return self.last[sha]


class Store:
    def __init__(self, root):
        self.root = os.path.abspath(root)
        for d in ("repos", "lfs", "blobs", "tmp", "parts"):
            os.makedirs(os.path.join(self.root, d), exist_ok=True)
        keyfile = os.path.join(self.root, "key")
        if not os.path.exists(keyfile):
            write_atomic(keyfile, secrets.token_bytes(32))
        self.key = read_bytes(keyfile)
        self.cas = Cas(self.root)
        self.lock = threading.RLock()
        self.repos = {}

    def lfs_path(self, sha):
        return os.path.join(self.root, "lfs", sha[:2], sha[2:4], sha)

    def blob_path(self, oid):
        return os.path.join(self.root, "blobs", oid[:2], oid)

    def have_lfs(self, sha):
        """path of an LFS object; one that came through Xet is put together, and checked, on first use"""
        p = self.lfs_path(sha)
        if os.path.exists(p):
            return p
        fh = self.cas.by_sha(sha)
        if fh is None:
            return None
        fd, tmp = tempfile.mkstemp(dir=os.path.join(self.root, "tmp"))
        try:
            h = hashlib.sha256()
            with os.fdopen(fd, "wb") as f:
                try:
                    for d in self.cas.pieces(fh):
                        h.update(d)
                        f.write(d)
                except ValueError as e:
                    raise ApiError(400, f"Xet file {fh} cannot be reconstructed: {e}")
            if h.hexdigest() != sha:
                raise ApiError(400, f"Xet file {fh} has sha256 {h.hexdigest()}, not {sha}")
            os.makedirs(os.path.dirname(p), exist_ok=True)
            os.replace(tmp, p)
        finally:
            if os.path.exists(tmp):
                os.unlink(tmp)
        return p

    def put_blob(self, data):
        oid = git_oid(b"blob", data)
        if not os.path.exists(self.blob_path(oid)):
            write_atomic(self.blob_path(oid), data)
        return oid

    def path_of(self, entry):
        return self.lfs_path(entry["lfs"]) if entry["lfs"] else self.blob_path(entry["oid"])

    def get(self, rtype, rid):
        k = (rtype, rid)
        with self.lock:
            if k not in self.repos:
                if not re.fullmatch(r"[\w.-]+/[\w.-]+", rid) or ".." in rid or \
                        not os.path.exists(os.path.join(self.root, "repos", rtype, rid, "meta.json")):
                    return None
                self.repos[k] = Repo(self, rtype, rid)
            return self.repos[k]

    def create(self, rtype, rid, private, author):
        with self.lock:
            if self.get(rtype, rid):
                return None
            d = os.path.join(self.root, "repos", rtype, *rid.split("/"))
            os.makedirs(os.path.join(d, "commits"), exist_ok=True)
            write_atomic(os.path.join(d, "meta.json"), json.dumps(
                {"private": private, "created": int(time.time()), "modified": int(time.time()), "branches": {},
                 "tags": {}, "hexid": secrets.token_hex(12), "gated": False}).encode())
            r = self.get(rtype, rid)
            data = GITATTRIBUTES.encode()
            r.add_commit("main", {".gitattributes": {"oid": self.put_blob(data), "size": len(data), "lfs": None}},
                         "initial commit", "", author, None)
            return r

    def delete(self, rtype, rid):
        with self.lock:
            r = self.get(rtype, rid)
            self.repos.pop((rtype, rid), None)
            shutil.rmtree(r.dir)

    def list(self, rtype):
        base = os.path.join(self.root, "repos", rtype)
        if not os.path.isdir(base):
            return []
        return [self.get(rtype, f"{ns}/{n}") for ns in sorted(os.listdir(base))
                for n in sorted(os.listdir(os.path.join(base, ns)))]

    def sign(self, *parts):
        return hmac.new(self.key, "\n".join(map(str, parts)).encode(), "sha256").hexdigest()[:40]


# ------------------------------------------------------------------------------------------------ xet
def xet_hex(raw):
    """32 hash bytes as Xet writes them: four little-endian 64-bit words"""
    return "".join("%016x" % w for w in struct.unpack("<4Q", raw))


def lz4_block(src, out):
    i, n = 0, len(src)
    while i < n:
        tok = src[i]
        i += 1
        lit = tok >> 4
        if lit == 15:
            while True:
                b = src[i]
                i += 1
                lit += b
                if b != 255:
                    break
        out += src[i:i + lit]
        i += lit
        if i >= n:
            return
        off = src[i] | src[i + 1] << 8
        i += 2
        ml = (tok & 15) + 4
        if ml == 19:
            while True:
                b = src[i]
                i += 1
                ml += b
                if b != 255:
                    break
        if off == 0 or off > len(out):
            raise ValueError("bad LZ4 offset")
        at = len(out) - off
        if off >= ml:
            out += out[at:at + ml]
        else:
            out += (out[at:] * (ml // off + 1))[:ml]


def lz4_frame(src, size):
    if pyarrow is not None:
        try:
            return pyarrow.Codec("lz4").decompress(src, size).to_pybytes()
        except Exception:
            pass
    if src[:4] != b"\x04\x22\x4d\x18":
        raise ValueError("not an LZ4 frame")
    flg, i = src[4], 7 + (8 if src[4] & 8 else 0) + (4 if src[4] & 1 else 0)
    out = bytearray()
    while True:
        n = int.from_bytes(src[i:i + 4], "little")
        i += 4
        if n == 0:
            return bytes(out)
        raw, n = n >> 31, n & 0x7FFFFFFF
        if raw:
            out += src[i:i + n]
        else:
            lz4_block(src[i:i + n], out)
        i += n + (4 if flg & 16 else 0)


def xet_chunk(scheme, data, size):
    if scheme == 0:
        out = data
    elif scheme in (1, 2):
        out = lz4_frame(data, size)
        if scheme == 2:                                 # four byte planes, one after another
            planes, at, res = [], 0, bytearray(size)
            for k in range(4):
                n = (size - k + 3) // 4
                planes.append(out[at:at + n])
                at += n
                res[k::4] = planes[k]
            out = bytes(res)
    else:
        raise ValueError(f"unknown Xet compression scheme {scheme}")
    if len(out) != size:
        raise ValueError("Xet chunk has a wrong length")
    return out


class Cas:
    """Xorbs as uploaded (+ an index of their chunks) and, per file hash, its terms, sha256 and size."""

    def __init__(self, root):
        self.root = os.path.join(root, "cas")
        for d in ("xorbs", "files", "sha"):
            os.makedirs(os.path.join(self.root, d), exist_ok=True)

    def path(self, kind, h, ext=""):
        if not re.fullmatch(r"[0-9a-f]{64}", h):
            raise ApiError(400, "malformed hash")
        return os.path.join(self.root, kind, h[:2], h + ext)

    def put_xorb(self, h, data):
        idx, o = [], 0
        while o < len(data) and data[o:o + 7] != b"XETBLOB":
            if o + 8 > len(data):
                raise ApiError(400, "truncated xorb")
            clen, scheme = int.from_bytes(data[o + 1:o + 4], "little"), data[o + 4]
            ulen = int.from_bytes(data[o + 5:o + 8], "little")
            idx.append((o, 8 + clen, scheme, ulen))
            o += 8 + clen
        if o > len(data) or not idx:
            raise ApiError(400, "truncated xorb")
        if os.path.exists(self.path("xorbs", h, ".idx")):
            return False
        write_atomic(self.path("xorbs", h), data)
        write_atomic(self.path("xorbs", h, ".idx"), json.dumps(idx).encode())
        return True

    def index(self, h):
        try:
            with open(self.path("xorbs", h, ".idx")) as f:
                return json.load(f)
        except FileNotFoundError:
            raise ApiError(400, f"xorb {h} was never uploaded")

    def put_shard(self, b):
        if b[:14] != b"HFRepoMetaData":
            raise ApiError(400, "not a shard")
        o, files, new = 48, [], 0
        try:
            while b[o:o + 32] != b"\xff" * 32:
                fh, (flags, n) = xet_hex(b[o:o + 32]), struct.unpack_from("<II", b, o + 32)
                o += 48
                terms, sha = [], None
                for _ in range(n):
                    _, ulen, c0, c1 = struct.unpack_from("<4I", b, o + 32)
                    terms.append([xet_hex(b[o:o + 32]), c0, c1, ulen])
                    o += 48
                o += 48 * n if flags >> 31 & 1 else 0
                if flags >> 30 & 1:
                    sha = xet_hex(b[o:o + 32])          # stored as words, reads back as the usual hex
                    o += 48
                files.append((fh, terms, sha))
        except struct.error:
            raise ApiError(400, "truncated shard")
        for fh, terms, sha in files:
            for x, c0, c1, ulen in terms:
                idx = self.index(x)
                if not c0 < c1 <= len(idx) or sum(i[3] for i in idx[c0:c1]) != ulen:
                    raise ApiError(400, f"shard names chunks that xorb {x} does not have")
            if not os.path.exists(self.path("files", fh)):
                new = 1
                write_atomic(self.path("files", fh), json.dumps(
                    {"terms": terms, "sha256": sha, "size": sum(t[3] for t in terms)}).encode())
            if sha:
                write_atomic(self.path("sha", sha), fh.encode())
        return new

    def file(self, fh):
        try:
            with open(self.path("files", fh)) as f:
                return json.load(f)
        except FileNotFoundError:
            raise ApiError(404, "file not found")

    def by_sha(self, sha):
        try:
            with open(self.path("sha", sha)) as f:
                return f.read()
        except FileNotFoundError:
            return None

    def pieces(self, fh):
        for x, c0, c1, _ in self.file(fh)["terms"]:
            idx = self.index(x)[c0:c1]
            with open(self.path("xorbs", x), "rb") as f:
                for off, n, scheme, ulen in idx:
                    f.seek(off + 8)
                    yield xet_chunk(scheme, f.read(n - 8), ulen)

    def plan(self, fh, start, end):
        """reconstruction of bytes [start, end) -> (offset into first term, [(xorb, c0, c1, bytes, b0, b1)])"""
        out, at, skip = [], 0, None
        for x, c0, c1, ulen in self.file(fh)["terms"]:
            if at + ulen > start and at < end:
                idx, lo, hi, pos = self.index(x), None, None, at
                for c in range(c0, c1):
                    if pos + idx[c][3] > start and pos < end:
                        if lo is None:
                            lo = c
                            if skip is None:
                                skip = max(0, start - pos)
                        hi = c + 1
                    pos += idx[c][3]
                out.append((x, lo, hi, sum(i[3] for i in idx[lo:hi]), idx[lo][0], idx[hi - 1][0] + idx[hi - 1][1] - 1))
            at += ulen
        return skip or 0, out


# ------------------------------------------------------------------------------------------------ faults
class Reset(Exception):
    pass


class Fault:
    INTS = ("times", "skip", "code", "after", "at", "bps", "read")
    FLOATS = ("seconds", "prob", "retry_after")
    ACTIONS = ("status", "reset", "stall", "lost", "cut", "flip", "delay", "throttle", "expire", "logout", "frame")

    def __init__(self, match, action, **kw):
        if action not in self.ACTIONS:
            raise ValueError(f"unknown fault action {action!r}")
        self.match, self.action, self.re = match, action, re.compile(match)
        self.kw = {k: int(v) if k in self.INTS else float(v) if k in self.FLOATS else v for k, v in kw.items()}
        self.times, self.skip = self.kw.get("times", 1), self.kw.get("skip", 0)
        self.rng = random.Random(self.kw.get("seed"))
        self.hits = 0
        self.seen = 0

    @classmethod
    def parse(cls, s):
        if isinstance(s, dict):
            s = dict(s)
            return cls(s.pop("match"), s.pop("action"), **s)
        match, action, *rest = s.split(";")
        return cls(match, action, **dict(x.split("=", 1) for x in rest))

    def take(self, line):
        if not self.re.search(line) or (self.times >= 0 and self.hits >= self.times):
            return False
        self.seen += 1
        if self.seen <= self.skip or self.rng.random() >= self.kw.get("prob", 1.0):
            return False
        self.hits += 1
        return True

    def dump(self):
        return {"match": self.match, "action": self.action, **self.kw, "hits": self.hits, "seen": self.seen}


class State:
    def __init__(self, cfg):
        self.cfg = cfg
        self.store = Store(cfg.root)
        self.tokens, self.orgs = {}, collections.defaultdict(set)
        for t in cfg.token:
            user, tok, *role = t.split(":")
            self.tokens[tok] = (user, role[0] if role else "write")
        for o in cfg.org:
            name, members = o.split(":")
            self.orgs[name] |= set(members.split(","))
        self.faults = [Fault.parse(f) for f in cfg.fault] + \
                      [Fault.parse(f) for f in json.loads(os.environ.get("MINIHUB_FAULTS", "[]"))]
        self.mu = threading.Lock()
        self.reset_stats()

    def reset_stats(self):
        with self.mu:
            self.stats, self.logs = collections.Counter(), collections.deque(maxlen=20000)

    def note(self, **kw):
        with self.mu:
            self.logs.append(kw)
            if self.cfg.log:
                with open(self.cfg.log, "a") as f:
                    f.write(json.dumps(kw) + "\n")


# ------------------------------------------------------------------------------------------------ http
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "minihub"
    wbufsize = 1 << 16
    timeout = 120

    # -- plumbing
    def log_message(self, *a):
        pass

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def hard_reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())              # really closed now: the peer gets RST
        raise Reset

    def body_iter(self):
        """request body in pieces, with the reset/stall/throttle faults applied"""
        n = self.headers.get("Content-Length")
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        self.left = int(n) if n else 0
        kill = next((f for f in self.active if f.action in ("reset", "stall")), None)
        slow = next((f.kw["bps"] for f in self.active if f.action == "throttle" and "bps" in f.kw), 0)

        def pieces():
            if chunked:
                while True:
                    size = int(self.rfile.readline().split(b";")[0], 16)
                    while size:
                        d = self.rfile.read1(min(size, CHUNK))
                        if not d:
                            raise ConnectionError("client went away")
                        size -= len(d)
                        yield d
                        if size == 0:
                            self.rfile.readline()
                            break
                    else:
                        while self.rfile.readline().strip():
                            pass
                        return
            while self.left:
                d = self.rfile.read1(min(self.left, CHUNK if not kill else 16384))
                if not d:
                    raise ConnectionError("client went away")
                self.left -= len(d)
                yield d

        limit = kill.kw.get("after", 0) if kill else None
        if kill and limit == 0:
            self.kill(kill)
        for d in pieces():
            self.bytes_in += len(d)
            if slow:
                time.sleep(len(d) / slow)
            yield d
            if kill and self.bytes_in >= limit:
                self.kill(kill)
        self.body_done = True

    def kill(self, f):
        if f.action == "stall":
            time.sleep(f.kw.get("seconds", 5))
            self.connection.shutdown(socket.SHUT_RDWR)
            raise Reset
        self.hard_reset()

    def body(self):
        if self._body is None:
            self._body = b"".join(self.body_iter())
        return self._body

    def json(self):
        try:
            return json.loads(self.body() or b"{}")
        except ValueError:
            raise ApiError(400, "Invalid JSON body")

    def start(self, status, headers, length):
        self.status = status
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("X-Request-Id", self.rid)
        for k, v in headers.items():
            self.send_header(k, v)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def out(self, pieces):
        cutter = next((f for f in self.active if f.action == "cut"), None)
        cut = cutter.kw.get("after", 0) if cutter else None
        flip = next((f.kw.get("at", 0) for f in self.active if f.action == "flip"), None)
        slow = next((f.kw["bps"] for f in self.active if f.action == "throttle" and "bps" in f.kw), 0)
        for d in pieces:
            if flip is not None and self.bytes_out <= flip < self.bytes_out + len(d):
                d = bytearray(d)
                d[flip - self.bytes_out] ^= 1
            if cut is not None and self.bytes_out + len(d) >= cut:
                self.wfile.write(d[:cut - self.bytes_out])
                self.wfile.flush()
                self.bytes_out = cut
                if int(cutter.kw.get("fin", 0)):
                    self.connection.shutdown(socket.SHUT_RDWR)
                    raise Reset
                time.sleep(0.05)                        # let the bytes out before the RST
                self.hard_reset()
            if slow:
                time.sleep(len(d) / slow)
            self.wfile.write(d)
            self.bytes_out += len(d)

    def send(self, status, data=b"", headers=None, ctype="application/json; charset=utf-8"):
        if any(f.action == "lost" for f in self.active):
            self.hard_reset()
        if not isinstance(data, (bytes, bytearray)):
            data = json.dumps(data).encode() if not isinstance(data, str) else data.encode()
        h = dict(headers or {})
        h.setdefault("Content-Type", ctype)
        self.start(status, h, len(data))
        if self.command != "HEAD":
            self.out([data])

    def send_file(self, path, headers):
        size = os.path.getsize(path)
        start, end, status = 0, size, 200
        h = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
        rng = self.headers.get("Range", "")
        m = re.fullmatch(r"bytes=(\d*)-(\d*)", rng.strip())
        if m and (m[1] or m[2]) and self.headers.get("If-Range") in (None, h.get("ETag")):
            if m[1]:
                start, end = int(m[1]), min(int(m[2]) + 1, size) if m[2] else size
            else:
                start = max(0, size - int(m[2]))
            if start >= size or start >= end:
                return self.send(416, {"error": "Range not satisfiable"}, {"Content-Range": f"bytes */{size}"})
            status = 206
            h["Content-Range"] = f"bytes {start}-{end-1}/{size}"
        if any(f.action == "lost" for f in self.active):
            self.hard_reset()
        self.start(status, h, end - start)
        if self.command == "HEAD":
            return
        with open(path, "rb") as f:
            f.seek(start)

            def pieces():
                left = end - start
                while left:
                    d = f.read(min(left, CHUNK))
                    left -= len(d)
                    yield d
            self.out(pieces())

    # -- dispatch
    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (Reset, ConnectionError, TimeoutError, ValueError):
            self.close_connection = True

    def finish(self):
        try:
            super().finish()
        except (OSError, ValueError):
            pass

    def any(self):
        st = self.server.state
        self.st, self.store, self.cfg = st, st.store, st.cfg
        self._body, self.bytes_in, self.bytes_out, self.status, self.body_done = None, 0, 0, 0, False
        self.rid = secrets.token_hex(8)
        u = urlsplit(self.path)
        self.raw, self.query = re.sub(r"^/_cas/\w+", "", u.path), parse_qs(u.query, keep_blank_values=True)
        t0 = time.time()
        line = f"{self.command} {self.path}"
        if self.raw.startswith("/_minihub/"):
            self.active = []
            return self.control()
        with st.mu:
            self.active = [f for f in st.faults if f.take(line)]
        err = ""
        try:
            for f in self.active:
                if f.action == "delay":
                    time.sleep(f.kw.get("seconds", 1))
            f = next((f for f in self.active if f.action == "status"), None)
            if f:
                if f.kw.get("read", 1):
                    self.body()
                else:
                    self.close_connection = True
                h = {"Retry-After": f"{f.kw['retry_after']:g}"} if "retry_after" in f.kw else {}
                if f.kw.get("code", 503) == 429 and "ratelimit" in f.kw:     # e.g. ratelimit='"api";r=0;t=2'
                    h["RateLimit"] = f.kw["ratelimit"]
                self.send(f.kw.get("code", 503), f.kw.get("body", '{"error":"injected"}'), h)
            else:
                if any(f.action in ("reset", "stall") for f in self.active) and self.command in ("GET", "HEAD"):
                    self.kill(next(f for f in self.active if f.action in ("reset", "stall")))
                self.route()
                if not self.body_done and self._body is None:
                    self.body()                        # keep the connection usable
        except ApiError as e:
            err = e.message
            if not self.body_done and self._body is None:
                try:
                    self.body()
                except (OSError, ValueError):
                    pass
            h = {"X-Error-Message": e.message.encode("ascii", "replace").decode(), **e.headers}
            if e.code:
                h["X-Error-Code"] = e.code
            self.send(e.status, e.body if e.body is not None else {"error": e.message}, h)
        except Reset:
            err = "reset"
            raise
        except (ConnectionError, TimeoutError) as e:
            err = f"client: {e}"
            raise
        except Exception as e:
            err = f"{type(e).__name__}: {e}"
            import traceback
            traceback.print_exc()
            self.close_connection = True
            if not self.status:
                self.send(500, {"error": err})
        finally:
            with st.mu:
                k = f"{self.command} {self.kind()}"
                st.stats[k] += 1
                st.stats["bytes_in"] += self.bytes_in
                st.stats["bytes_out"] += self.bytes_out
                st.stats[f"bytes_in {k}"] += self.bytes_in
                st.stats[f"bytes_out {k}"] += self.bytes_out
            st.note(t=round(t0, 3), ms=round((time.time() - t0) * 1000, 1), line=line, status=self.status,
                    bytes_in=self.bytes_in, bytes_out=self.bytes_out, fault=[f.action for f in self.active],
                    error=err, range=self.headers.get("Range"), ua=(self.headers.get("User-Agent") or "")[:60])

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = any

    def kind(self):
        p = self.raw
        for rx, name in ((r"^/_lfs/(\w+)", None), (r"^/_cdn/xorb/", "cdn-xorb"), (r"^/_cdn/", "cdn"),
                         (r"^/(v[12]/[\w-]+)", None), (r"\.git/info/lfs/objects/batch", "lfs-batch"),
                         (r"^/(?:datasets/|spaces/)?[^/]+/[^/]+/resolve/", "resolve"),
                         (r"^/api/(?:models|datasets|spaces)/[^/]+/[^/]+/([\w-]+)", None),
                         (r"^/api/(?:models|datasets|spaces)/[^/]+/[^/]+$", "info"), (r"^/api/([\w/-]+)", None)):
            m = re.search(rx, p)
            if m:
                return name or m[1]
        return "other"

    def control(self):
        st = self.st
        what = self.raw[len("/_minihub/"):]
        body = self.body()
        if what == "stats":
            with st.mu:
                return self.send(200, dict(st.stats))
        if what == "log":
            with st.mu:
                return self.send(200, list(st.logs))
        if what == "reset":
            st.reset_stats()
            return self.send(200, {})
        if what == "faults":
            with st.mu:
                if self.command == "DELETE":
                    st.faults = []
                elif self.command == "POST":
                    d = json.loads(body)
                    st.faults += [Fault.parse(x) for x in (d if isinstance(d, list) else [d])]
                return self.send(200, [f.dump() for f in st.faults])
        self.send(404, {"error": "unknown control"})

    # -- auth
    def user(self):
        a = self.headers.get("Authorization", "")
        if not a:
            return None, None
        tok = a[7:].strip() if a.lower().startswith("bearer ") else ""
        if a.lower().startswith("basic "):
            tok = base64.b64decode(a[6:]).decode().partition(":")[2]
        if any(f.action == "logout" for f in self.active) or tok not in self.st.tokens:
            raise ApiError(401, "Invalid credentials in Authorization header",
                           body={"error": "Invalid username or password."})
        return self.st.tokens[tok]

    def member(self, user, ns):
        return user is not None and (user == ns or user in self.st.orgs.get(ns, ()))

    def repo(self, rtype, rid, write=False):
        user, role = self.user()
        r = self.store.get(rtype, rid)
        ns = rid.split("/")[0]
        if r is None or (r.meta["private"] and not self.member(user, ns)):
            raise ApiError(404 if user else 401, "Repository not found", "RepoNotFound")
        if write:
            if user is None:
                raise ApiError(401, "Invalid username or password.")
            if role != "write" or not self.member(user, ns):
                raise ApiError(403, "Forbidden: you don't have write access to this repo (" + rid + ")")
        return r

    def writer(self, ns):
        user, role = self.user()
        if user is None:
            raise ApiError(401, "Invalid username or password.")
        if role != "write" or not self.member(user, ns or user):
            raise ApiError(403, f"You don't have the rights to create a repo under the namespace \"{ns or user}\"")
        return user

    # -- urls
    def base(self):
        return self.cfg.public_url or f"http://{self.headers.get('Host') or '127.0.0.1:%d' % self.cfg.port}"

    def cdn_base(self):
        return self.cfg.cdn_url or f"http://127.0.0.1:{self.cfg.cdn_port}"

    def signed(self, base, path, ttl, **q):
        q["exp"] = int(time.time() + ttl)
        q["sig"] = self.store.sign(path, *(f"{k}={q[k]}" for k in sorted(q)))
        return f"{base}{path}?{urlencode(q)}"

    def check_signed(self):
        q = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        sig = q.pop("sig", "")
        if not hmac.compare_digest(sig, self.store.sign(self.raw, *(f"{k}={q[k]}" for k in sorted(q)))):
            raise ApiError(403, "SignatureDoesNotMatch")
        if int(q["exp"]) < time.time() or any(f.action == "expire" for f in self.active):
            raise ApiError(403, "Request has expired", body="<Error><Code>AccessDenied</Code>"
                           "<Message>Request has expired</Message></Error>")
        return q

    def q1(self, name, default=""):
        return self.query.get(name, [default])[0]

    def flag(self, name):
        return self.q1(name, "false").lower() in ("1", "true")

    # -- routes
    def route(self):
        segs = self.raw.split("/")[1:]
        m = self.command
        if segs[0] == "_lfs":
            return self.lfs_io(segs)
        if segs[0] == "_cdn":
            return self.cdn(segs)
        if segs[0] == "api":
            return self.api(segs[1:], m)
        if segs[0] in ("v1", "v2") and self.cfg.xet:
            return self.cas_api(segs, m)
        # /[datasets/|spaces/]ns/name(.git/info/lfs/... | /resolve/rev/path)
        rtype = "model"
        if segs[0] in ("datasets", "spaces"):
            rtype, segs = TYPES[segs[0]], segs[1:]
        if len(segs) > 5 and segs[1].endswith(".git") and segs[2:6] == ["info", "lfs", "objects", "batch"]:
            return self.lfs_batch(rtype, f"{segs[0]}/{segs[1][:-4]}")
        if len(segs) >= 5 and segs[2] in ("resolve", "raw"):
            return self.resolve(rtype, f"{segs[0]}/{segs[1]}", unquote(segs[3]), unquote("/".join(segs[4:])))
        raise ApiError(404, "Not Found")

    def api(self, s, m):
        if s == ["whoami-v2"]:
            user, role = self.user()
            if user is None:
                raise ApiError(401, "Invalid username or password.")
            return self.send(200, {
                "type": "user", "id": hashlib.md5(user.encode()).hexdigest()[:24], "name": user, "fullname": user,
                "email": f"{user}@minihub.invalid", "emailVerified": True, "canPay": False, "isPro": False,
                "periodEnd": None, "avatarUrl": "", "orgs": [
                    {"type": "org", "id": o, "name": o, "fullname": o, "roleInOrg": "admin", "isEnterprise": False}
                    for o, mem in self.st.orgs.items() if user in mem],
                "auth": {"type": "access_token", "accessToken": {"displayName": "minihub", "role": role}}})
        if s == ["validate-yaml"] and m == "POST":
            return self.validate_yaml()
        if s[:1] == ["repos"] and len(s) == 2:
            return self.repos_api(s[1], m)
        if s and s[0] in TYPES:
            rtype = TYPES[s[0]]
            if len(s) == 1:
                return self.listing(rtype)
            if len(s) >= 3:
                return self.repo_api(rtype, f"{s[1]}/{s[2]}", s[3] if len(s) > 3 else "", s[4:], m)
        raise ApiError(404, "Sorry, we can't find the page you are looking for.")

    def validate_yaml(self):
        text = self.json().get("content", "")
        errors = []
        mm = re.match(r"\A---\s*\n(.*?)\n---", text, re.S)
        if mm and yaml:
            try:
                d = yaml.safe_load(mm[1])
                if d is not None and not isinstance(d, dict):
                    errors.append({"message": "YAML metadata must be an object"})
            except yaml.YAMLError as e:
                errors.append({"message": str(e)})
        if errors:
            return self.send(400, {"errors": errors, "warnings": [], "error": errors[0]["message"]})
        self.send(200, {"errors": [], "warnings": [] if mm else [{"message": "empty or missing yaml metadata in repo card"}]})

    def repos_api(self, what, m):
        d = self.json()
        if what == "move" and m == "POST":
            rtype = d.get("type") or "model"
            self.writer(d["toRepo"].split("/")[0])
            r = self.repo(rtype, d["fromRepo"], write=True)
            with self.store.lock:
                if self.store.get(rtype, d["toRepo"]):
                    raise ApiError(409, "target exists")
                dst = os.path.join(self.store.root, "repos", rtype, *d["toRepo"].split("/"))
                os.makedirs(os.path.dirname(dst), exist_ok=True)
                os.rename(r.dir, dst)
                self.store.repos.pop((rtype, d["fromRepo"]))
            return self.send(200, {})
        rtype = d.get("type") or "model"
        ns, name = d.get("organization"), d.get("name") or ""
        user = self.writer(ns)
        rid = f"{ns or user}/{name}"
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}", name):
            raise ApiError(400, f"Invalid repo name: {rid}")
        url = f"{self.base()}/{'' if rtype == 'model' else rtype + 's/'}{rid}"
        if what == "create" and m == "POST":
            private = d.get("visibility") == "private" if "visibility" in d else bool(d.get("private"))
            r = self.store.create(rtype, rid, private, user)
            if r is None:
                raise ApiError(409, f"You already created this {rtype} repo", body={
                    "error": f"You already created this {rtype} repo", "url": url})
            return self.send(200, {"url": url, "name": rid, "id": r.meta["hexid"]})
        if what == "delete" and m == "DELETE":
            self.repo(rtype, rid, write=True)
            self.store.delete(rtype, rid)
            return self.send(200, {})
        raise ApiError(404, "Not Found")

    def listing(self, rtype):
        user, _ = self.user()
        author, search = self.q1("author"), self.q1("search")
        out = [self.info(r, "main", full=self.flag("full")) for r in self.store.list(rtype)
               if (not author or r.id.split("/")[0] == author) and search in r.id
               and (not r.meta["private"] or self.member(user, r.id.split("/")[0]))]
        self.page(out, int(self.q1("limit", "1000") or 1000))

    def page(self, items, size):
        at = int(self.q1("cursor", "0") or 0)
        h = {}
        if at + size < len(items):
            q = [(k, v) for k, v in parse_qsl(urlsplit(self.path).query, keep_blank_values=True) if k != "cursor"]
            h["Link"] = f'<{self.base()}{self.raw}?{urlencode(q + [("cursor", at + size)])}>; rel="next"'
        self.send(200, items[at:at + size], h)

    def info(self, r, rev, full=True, blobs=False):
        sha = r.resolve(rev)
        c = r.commit(sha)
        d = {"_id": r.meta["hexid"], "id": r.id, "author": r.id.split("/")[0], "sha": sha, "private": r.meta["private"],
             "lastModified": iso(c["time"]), "createdAt": iso(r.meta["created"]), "gated": r.meta.get("gated", False),
             "disabled": False, "downloads": 0, "likes": 0, "tags": [], "usedStorage": sum(
                 e["size"] for e in c["tree"].values())}
        if r.type == "model":
            d["modelId"] = r.id
        if full:
            sib = []
            for p in sorted(c["tree"]):
                e = c["tree"][p]
                x = {"rfilename": p}
                if blobs:
                    x.update(size=e["size"], blobId=e["oid"])
                    if e["lfs"]:
                        x["lfs"] = {"sha256": e["lfs"], "size": e["size"], "pointerSize": len(pointer(e["lfs"], e["size"]))}
                sib.append(x)
            d["siblings"] = sib
            if "README.md" in c["tree"] and yaml and not c["tree"]["README.md"]["lfs"]:
                text = read_bytes(self.store.path_of(c["tree"]["README.md"])).decode("utf-8", "replace")
                mm = re.match(r"\A---\s*\n(.*?)\n---", text, re.S)
                try:
                    card = yaml.safe_load(mm[1]) if mm else None
                except yaml.YAMLError:
                    card = None
                if isinstance(card, dict):
                    d["cardData"] = json.loads(json.dumps(card, default=str))
        return d

    def entry(self, r, sha, path, e, expand):
        if e is None:
            x = {"type": "directory", "oid": r.dir_oids(sha)[path], "size": 0, "path": path}
        else:
            x = {"type": "file", "oid": e["oid"], "size": e["size"], "path": path}
            if e["lfs"]:
                x["lfs"] = {"oid": e["lfs"], "size": e["size"], "pointerSize": len(pointer(e["lfs"], e["size"]))}
                xet = self.store.cas.by_sha(e["lfs"]) if self.cfg.xet else None
                if xet:
                    x["xetHash"] = xet
        if expand:
            c = r.last_commits(sha).get(path)
            if c:
                x["lastCommit"] = {"id": c["id"], "title": c["title"], "date": iso(c["time"])}
            if e is not None:
                x["securityFileStatus"] = {"status": "safe", "avScan": None, "pickleImportScan": None}
        return x

    def repo_api(self, rtype, rid, verb, rest, m):
        if verb in ("", "revision") and m == "GET":
            r = self.repo(rtype, rid)
            return self.send(200, self.info(r, unquote(rest[0]) if rest else "main", blobs=self.flag("blobs")))
        if verb == "tree" and m == "GET":
            return self.tree(self.repo(rtype, rid), unquote(rest[0]), unquote("/".join(rest[1:])).strip("/"))
        if verb == "paths-info" and m == "POST":
            r = self.repo(rtype, rid)
            sha = r.resolve(unquote(rest[0]))
            if "json" in self.headers.get("Content-Type", ""):
                d = self.json()
                paths, expand = d.get("paths", []), bool(d.get("expand"))
            else:
                d = parse_qs(self.body().decode(), keep_blank_values=True)
                paths, expand = d.get("paths", []), d.get("expand", ["false"])[0].lower() in ("true", "1")
            if len(paths) > 1000:
                raise ApiError(413, "too many parameters")
            t, dirs, out = r.commit(sha)["tree"], r.dir_oids(sha), []
            for p in paths:
                p = p.strip("/")
                if p in t:
                    out.append(self.entry(r, sha, p, t[p], expand))
                elif p and p in dirs:
                    out.append(self.entry(r, sha, p, None, expand))
            return self.send(200, out)
        if verb == "refs" and m == "GET":
            r = self.repo(rtype, rid)
            return self.send(200, {
                "branches": [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": c} for b, c in r.meta["branches"].items()],
                "tags": [{"name": t, "ref": f"refs/tags/{t}", "targetCommit": c} for t, c in r.meta["tags"].items()],
                "converts": [], "pullRequests": []})
        if verb == "commits" and m == "GET":
            r = self.repo(rtype, rid)
            return self.page([{"id": c["id"], "title": c["title"], "message": c["message"], "date": iso(c["time"]),
                               "authors": [{"user": c["author"], "avatar": ""}]} for c in r.log(r.resolve(unquote(rest[0])))],
                             int(self.q1("limit", "50")))
        if verb in ("xet-read-token", "xet-write-token") and m == "GET" and self.cfg.xet:
            scope = verb[4:].split("-")[0]
            self.repo(rtype, rid, write=scope == "write")
            exp = int(time.time() + self.cfg.xet_token_ttl)
            tok = f"xet.{scope}.{exp}.{self.store.sign('xet', scope, exp)}"
            url = self.cfg.cas_url or (
                # The client remembers what it has sent to an address, and ports come again.
                f"http://127.0.0.1:{self.cfg.cas_port or self.cfg.port}/_cas/{self.cfg.nonce}")
            return self.send(200, {"casUrl": url, "accessToken": tok, "exp": exp}, {
                "X-Xet-Cas-Url": url, "X-Xet-Access-Token": tok, "X-Xet-Token-Expiration": str(exp)})
        if verb == "discussions" and m == "GET":
            pulls = self.repo(rtype, rid).meta.get("pulls", [])
            return self.send(200, {"discussions": pulls, "count": len(pulls), "start": 0})
        if verb == "auth-check" and m == "GET":
            self.repo(rtype, rid, write=bool(rest))
            return self.send(200, {})
        if m == "GET":
            raise ApiError(404, "Not Found")
        # everything below writes
        r = self.repo(rtype, rid, write=True)
        user = self.user()[0]
        if verb == "preupload":
            return self.preupload(r, unquote(rest[0]))
        if verb == "commit":
            return self.commit(r, unquote(rest[0]), user)
        with r.lock:
            if verb == "settings" and m == "PUT":
                d = self.json()
                if "visibility" in d or "private" in d:
                    r.meta["private"] = d.get("visibility") == "private" if "visibility" in d else bool(d["private"])
                if "gated" in d:
                    r.meta["gated"] = d["gated"]
                r.save()
                return self.send(200, {"private": r.meta["private"], "gated": r.meta["gated"]})
            if verb in ("branch", "tag"):
                name = unquote(rest[0])
                refs = r.meta["branches" if verb == "branch" else "tags"]
                if m == "DELETE":
                    if name not in refs or (verb == "branch" and name == "main"):
                        raise ApiError(404 if name not in refs else 403, f"Cannot delete {verb} {name}", "RevisionNotFound")
                    del refs[name]
                else:
                    d = self.json()
                    at = r.resolve(name if verb == "tag" else d.get("startingPoint") or "main")
                    name = d["tag"] if verb == "tag" else name
                    if name in refs:
                        raise ApiError(409, f"Reference already exists: {name}")
                    refs[name] = at
                r.save()
                return self.send(200, {})
            if verb == "super-squash" and m == "POST":
                b = unquote(rest[0])
                if b not in r.meta["branches"]:
                    raise ApiError(404, f"Invalid rev id: {b}", "RevisionNotFound")
                head = r.commit(r.meta["branches"][b])
                r.add_commit(b, head["tree"], self.json().get("message") or "squash", "", user, None)
                return self.send(200, {})
        raise ApiError(404, "Not Found")

    def tree(self, r, rev, path):
        sha = r.resolve(rev)
        t, dirs = r.commit(sha)["tree"], r.dir_oids(sha)
        if path and path not in dirs:
            raise ApiError(404, f"{path} does not exist on \"{rev}\"", "EntryNotFound")
        pre = path + "/" if path else ""
        rec, expand = self.flag("recursive"), self.flag("expand")
        names = [p for p in t if p.startswith(pre)] + [d for d in dirs if d and d.startswith(pre)]
        if not rec:
            names = [p for p in names if "/" not in p[len(pre):]]
        names.sort()
        size = int(self.q1("limit") or (self.cfg.expand_page if expand else self.cfg.tree_page))
        at = int(self.q1("cursor", "0") or 0)
        h = {}
        if at + size < len(names):
            q = [(k, v) for k, v in parse_qsl(urlsplit(self.path).query, keep_blank_values=True) if k != "cursor"]
            h["Link"] = f'<{self.base()}{self.raw}?{urlencode(q + [("cursor", at + size)])}>; rel="next"'
        self.send(200, [self.entry(r, sha, p, t.get(p), expand) for p in names[at:at + size]], h)

    # -- uploads
    def lfs_rules(self, r, sha):
        e = r.commit(sha)["tree"].get(".gitattributes")
        if e is None or e["lfs"]:
            return []
        text = read_bytes(self.store.path_of(e)).decode("utf-8", "replace")
        return [ln.split()[0] for ln in text.splitlines() if "filter=lfs" in ln and not ln.lstrip().startswith("#")]

    @staticmethod
    def globbed(path, pats):
        return any(fnmatch.fnmatch(path if "/" in p.strip("/") else path.rsplit("/", 1)[-1], p.strip("/")) for p in pats)

    def preupload(self, r, rev):
        d = self.json()
        sha = r.resolve(rev)
        t, rules = r.commit(sha)["tree"], self.lfs_rules(r, sha)
        ignore = d.get("gitIgnore")
        if ignore is None and ".gitignore" in t:
            ignore = read_bytes(self.store.path_of(t[".gitignore"])).decode()
        pats = [x.strip() for x in (ignore or "").splitlines() if x.strip() and not x.startswith(("#", "!"))]
        out = []
        if len(d.get("files", [])) > 256:
            raise ApiError(413, "too many files in one preupload")
        for f in d["files"]:
            p = f["path"]
            self.check_path(p)
            lfs = f["size"] > self.cfg.lfs_threshold or self.globbed(p, rules)
            e = t.get(p)
            parts = p.split("/")
            ign = self.globbed(p, pats) or any(self.globbed(x, [y.rstrip("/") for y in pats if y.endswith("/")]) for x in parts[:-1])
            out.append({"path": p, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": ign,
                        **({"oid": e["lfs"] or e["oid"]} if e else {})})
        self.send(200, {"files": out})

    @staticmethod
    def check_path(p):
        if not p or p.startswith("/") or any(x in ("", ".", "..", ".git") for x in p.split("/")) or "\0" in p:
            raise ApiError(400, f"Invalid path: {p!r}")

    def lfs_batch(self, rtype, rid):
        d = self.json()
        up = d.get("operation") == "upload"
        self.repo(rtype, rid, write=up)
        objs, transfer = [], "basic"
        for o in d["objects"]:
            oid, size = o["oid"], o["size"]
            x = {"oid": oid, "size": size}
            if not re.fullmatch(r"[0-9a-f]{64}", oid):
                x["error"] = {"code": 422, "message": "invalid oid"}
            elif not up:
                if os.path.exists(self.store.lfs_path(oid)):
                    x["actions"] = {"download": {"href": self.cdn_url_for(oid, oid)}}
                else:
                    x["error"] = {"code": 404, "message": "Object does not exist"}
            elif not os.path.exists(self.store.lfs_path(oid)):
                ttl, q = self.cfg.upload_ttl, {"size": size}
                if size > self.cfg.multipart_threshold and "multipart" in d.get("transfers", []):
                    transfer, cs = "multipart", self.cfg.multipart_chunk
                    uid = self.store.sign("upload", oid, size, time.time_ns())[:24]
                    hdr = {"chunk_size": str(cs)}
                    for i in range(1, -(-size // cs) + 1):
                        hdr[f"{i:05d}"] = self.signed(self.cdn_base(), f"/_lfs/part/{uid}/{i}", ttl,
                                                      size=min(cs, size - (i - 1) * cs))
                    act = {"href": self.signed(self.base(), f"/_lfs/complete/{uid}/{oid}", ttl, **q), "header": hdr}
                else:
                    act = {"href": self.signed(self.cdn_base(), f"/_lfs/upload/{oid}", ttl, **q), "header": {}}
                x["authenticated"] = True
                x["actions"] = {"upload": act, "verify": {"href": f"{self.base()}/_lfs/verify", "header": {}}}
            objs.append(x)
        self.send(200, {"transfer": transfer, "objects": objs}, ctype="application/vnd.git-lfs+json")

    def save_stream(self, dst, size, want_sha=None):
        """request body -> dst (atomically), checking length and sha256; returns md5"""
        h, md, n = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        fd, tmp = tempfile.mkstemp(dir=os.path.join(self.store.root, "tmp"))
        try:
            with os.fdopen(fd, "wb") as f:
                for d in self.body_iter():
                    if want_sha:
                        h.update(d)
                    else:
                        md.update(d)
                    n += len(d)
                    f.write(d)
            if n != size:
                raise ApiError(400, f"IncompleteBody: got {n} of {size} bytes")
            if want_sha and h.hexdigest() != want_sha:
                raise ApiError(400, f"BadDigest: body sha256 {h.hexdigest()} is not {want_sha}")
            os.makedirs(os.path.dirname(dst), exist_ok=True)
            os.replace(tmp, dst)
        finally:
            if os.path.exists(tmp):
                os.unlink(tmp)
        return md.hexdigest() if not want_sha else want_sha[:32]

    def lfs_io(self, s):
        what = s[1]
        if what == "upload" and self.command == "PUT":
            q = self.check_signed()
            tag = self.save_stream(self.store.lfs_path(s[2]), int(q["size"]), s[2])
            return self.send(200, b"", {"ETag": f'"{tag}"'})
        if what == "xorb" and self.command == "PUT":
            q = self.check_signed()
            data = self.body()
            if len(data) != int(q["size"]):
                raise ApiError(400, f"IncompleteBody: got {len(data)} of {q['size']} bytes")
            self.store.cas.put_xorb(s[2], data)
            return self.send(200, b"", {"ETag": f'"{s[2][:32]}"'})
        if what == "part" and self.command == "PUT":
            q = self.check_signed()
            tag = self.save_stream(os.path.join(self.store.root, "parts", s[2], s[3]), int(q["size"]))
            return self.send(200, b"", {"ETag": f'"{tag}"'})
        if what == "complete" and self.command == "POST":
            q = self.check_signed()
            uid, oid = s[2], s[3]
            d, pdir = self.json(), os.path.join(self.store.root, "parts", uid)
            if os.path.exists(self.store.lfs_path(oid)):          # a repeated completion is fine
                return self.send(200, {"success": True})
            h, n = hashlib.sha256(), 0
            fd, tmp = tempfile.mkstemp(dir=os.path.join(self.store.root, "tmp"))
            try:
                with os.fdopen(fd, "wb") as f:
                    for p in sorted(d["parts"], key=lambda p: p["partNumber"]):
                        path = os.path.join(pdir, str(int(p["partNumber"])))
                        if not os.path.exists(path):
                            raise ApiError(400, f"InvalidPart: {p['partNumber']}")
                        data = open(path, "rb").read()
                        if hashlib.md5(data, usedforsecurity=False).hexdigest() != p["etag"].strip('"'):
                            raise ApiError(400, f"InvalidPart: etag of part {p['partNumber']}")
                        h.update(data)
                        n += len(data)
                        f.write(data)
                if n != int(q["size"]) or h.hexdigest() != oid or d.get("oid") != oid:
                    raise ApiError(400, f"BadDigest: {n} bytes, sha256 {h.hexdigest()}")
                os.makedirs(os.path.dirname(self.store.lfs_path(oid)), exist_ok=True)
                os.replace(tmp, self.store.lfs_path(oid))
            finally:
                if os.path.exists(tmp):
                    os.unlink(tmp)
            shutil.rmtree(pdir, ignore_errors=True)
            return self.send(200, {"success": True})
        if what == "verify" and self.command == "POST":
            if self.user()[0] is None:
                raise ApiError(401, "Invalid username or password.")
            d = self.json()
            p = self.store.lfs_path(str(d["oid"]))
            if not os.path.exists(p) or os.path.getsize(p) != d["size"]:
                raise ApiError(404, "Object not found or wrong size")
            return self.send(200, {})
        raise ApiError(404, "Not Found")

    # -- xet content-addressed store
    def cas_auth(self, scope):
        try:
            _, have, exp, sig = self.headers.get("Authorization", "").split(" ")[-1].split(".")
            ok = hmac.compare_digest(sig, self.store.sign("xet", have, exp))
        except ValueError:
            ok = False
        if not ok or int(exp) < time.time() or any(f.action in ("expire", "logout") for f in self.active):
            raise ApiError(401, "Unauthorized: missing or expired xet token")
        if scope == "write" and have != "write":
            raise ApiError(403, "token has no write scope")

    def cas_api(self, s, m):
        what, cas = "/".join(s[:2]), self.store.cas
        if what == "v1/xorbs" and m == "POST" and len(s) == 4:
            self.cas_auth("write")
            return self.send(200, {"was_inserted": cas.put_xorb(s[3], self.body())})
        if what == "v1/xorbs" and m == "HEAD" and len(s) == 4:
            self.cas_auth("read")
            return self.send(200 if os.path.exists(cas.path("xorbs", s[3], ".idx")) else 404)
        if self.cfg.xet_v2 and what == "v1/xorb-grants" and m == "POST" and len(s) == 4:
            # 200 = we have it, 201 = PUT it to this signed URL, then POST v1/xorb-commits/PREFIX/HASH/grant/ID
            self.cas_auth("write")
            n = int(self.json()["length"])
            if os.path.exists(cas.path("xorbs", s[3], ".idx")):
                return self.send(200, {"was_inserted": False})
            return self.send(201, {"id": self.store.sign("grant", s[3], n)[:16], "method": "PUT", "headers": {
                "x-amz-meta-minihub": "1"}, "url": self.signed(self.cdn_base(), f"/_lfs/xorb/{s[3]}", self.cfg.upload_ttl, size=n)})
        if self.cfg.xet_v2 and what == "v1/xorb-commits" and m == "POST" and len(s) == 6:
            self.cas_auth("write")
            if not os.path.exists(cas.path("xorbs", s[3], ".idx")):
                raise ApiError(404, "nothing was uploaded for this grant")
            return self.send(200, {"was_inserted": True})
        if what == "v1/shards" and m == "POST":
            self.cas_auth("write")
            return self.send(200, {"result": cas.put_shard(self.body())})
        if self.cfg.xet_v2 and what == "v2/shards" and m == "POST":
            self.cas_auth("write")
            frames = [{"type": "validating", "verified": 1, "total": 1}]
            bad = next((f for f in self.active if f.action == "frame"), None)
            try:
                if bad:
                    raise ApiError(503, "injected")
                cas.put_shard(self.body())
                frames += [{"type": "committing", "stage": "uploading"}, {"type": "committing", "stage": "syncing"},
                           {"type": "result"}]
            except ApiError as e:
                self.body()
                frames.append({"type": "error", "message": e.message, "retryable": bool(
                    bad and int(bad.kw.get("retryable", 1)))})
            return self.send(200, "".join(json.dumps(f) + "\n" for f in frames), ctype="application/x-ndjson")
        if s[1] == "reconstructions" and m == "GET" and len(s) == 3 and (s[0] == "v1" or self.cfg.xet_v2):
            self.cas_auth("read")
            size = cas.file(s[2])["size"]
            mm = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            a, b = (int(mm[1]), min(size, int(mm[2]) + 1 if mm[2] else size)) if mm else (0, size)
            if mm and a >= size:
                raise ApiError(416, "range past the end")
            skip, plan = cas.plan(s[2], a, b)
            terms = [{"hash": x, "unpacked_length": n, "range": {"start": c0, "end": c1}} for x, c0, c1, n, _, _ in plan]
            info = {}
            if s[0] == "v2":                            # one signed URL per range: no multi-range requests
                for x, c0, c1, _, b0, b1 in plan:
                    r = {"chunks": {"start": c0, "end": c1}, "bytes": {"start": b0, "end": b1}}
                    if [r] not in [y["ranges"] for y in info.setdefault(x, [])]:
                        info[x].append({"url": self.signed(self.cdn_base(), f"/_cdn/xorb/{x}", self.cfg.cdn_ttl,
                                                           r=f"{b0}-{b1}"), "ranges": [r]})
                return self.send(200, {"offset_into_first_range": skip, "terms": terms, "xorbs": info})
            for x, c0, c1, _, b0, b1 in plan:
                e = {"range": {"start": c0, "end": c1}, "url_range": {"start": b0, "end": b1},
                     "url": self.signed(self.cdn_base(), f"/_cdn/xorb/{x}", self.cfg.cdn_ttl)}
                if e["range"] not in [y["range"] for y in info.setdefault(x, [])]:
                    info[x].append(e)
            return self.send(200, {"offset_into_first_range": skip, "fetch_info": info, "terms": terms})
        if what == "v1/telemetry":
            return self.send(200, {})
        # no global dedup (v1/chunks); with --xet-v1 no upload grants and no v2 either: clients fall back by themselves
        raise ApiError(404, "Not Found")

    def commit(self, r, rev, user):
        ops = []
        for ln in self.body().splitlines():
            if ln.strip():
                try:
                    o = json.loads(ln)
                    ops.append((o["key"], o["value"]))
                except (ValueError, KeyError, TypeError):
                    raise ApiError(400, "Invalid ndjson payload")
        if not ops or ops[0][0] != "header" or not ops[0][1].get("summary"):
            raise ApiError(400, "first line must be the commit header")
        head = ops[0][1]
        with r.lock:
            if rev not in r.meta["branches"]:
                raise ApiError(404, f"Invalid rev id: {rev}", "RevisionNotFound")
            cur = r.meta["branches"][rev]
            pulls = r.meta.setdefault("pulls", [])
            if self.flag("create_pr"):                  # a branch of its own, made when the commit is
                rev = f"refs/pr/{len(pulls) + 1}"
            pc = head.get("parentCommit")
            if pc and not cur.startswith(pc):
                raise ApiError(412, "A commit has happened since. Please refresh and try again.")
            t = dict(r.commit(cur)["tree"])
            for key, v in ops[1:]:
                p = v.get("path", "")
                if key in ("file", "lfsFile"):
                    self.check_path(p)
                    if any(x.startswith(p + "/") for x in t):
                        raise ApiError(400, f"{p} is a directory")
                    if any("/".join(p.split("/")[:i]) in t for i in range(1, p.count("/") + 1)):
                        raise ApiError(400, f"a parent of {p} is a file")
                if key == "file":
                    data = base64.b64decode(v["content"]) if v.get("encoding") == "base64" else v["content"].encode()
                    t[p] = {"oid": self.store.put_blob(data), "size": len(data), "lfs": None}
                elif key == "lfsFile":
                    oid = v["oid"]
                    f = self.store.have_lfs(oid) if re.fullmatch(r"[0-9a-f]{64}", oid) else None
                    if not f:
                        raise ApiError(400, f'LFS pointer pointed to a file that does not exist: "{p}"')
                    size = os.path.getsize(f)
                    if v.get("size") not in (None, size):
                        raise ApiError(400, f"size of {p} is {size}, not {v['size']}")
                    t[p] = {"oid": git_oid(b"blob", pointer(oid, size)), "size": size, "lfs": oid}
                elif key == "deletedFile":
                    if p not in t:
                        raise ApiError(404, f"A file with this name doesn't exist: {p}", "EntryNotFound")
                    del t[p]
                elif key == "deletedFolder":
                    gone = [x for x in t if x.startswith(p.strip("/") + "/")]
                    if not gone:
                        raise ApiError(404, f"A folder with this name doesn't exist: {p}", "EntryNotFound")
                    for x in gone:
                        del t[x]
                else:
                    raise ApiError(400, f"unknown operation {key}")
            if rev.startswith("refs/pr/"):
                pulls.append({"num": len(pulls) + 1, "title": head["summary"], "status": "open", "isPullRequest": True,
                              "author": {"name": user}, "createdAt": iso(time.time()),
                              "repo": {"name": r.id, "type": r.type}})
            sha = r.add_commit(rev, t, head["summary"], head.get("description") or "", user, cur)
        url = f"{self.base()}/{'' if r.type == 'model' else r.type + 's/'}{r.id}"
        self.send(200, {"success": True, "commitOid": sha, "hookOutput": "", "commitUrl": f"{url}/commit/{sha}",
                        **({"pullRequestUrl": f"{url}/discussions/{pulls[-1]['num']}"} if pulls else {})})

    # -- downloads
    def cdn_url_for(self, sha, name):
        return self.signed(self.cdn_base(), f"/_cdn/{sha}", self.cfg.cdn_ttl, name=name.rsplit("/", 1)[-1])

    def resolve(self, rtype, rid, rev, path):
        r = self.repo(rtype, rid)
        sha = r.resolve(rev)
        e = r.commit(sha)["tree"].get(path)
        if e is None:
            raise ApiError(404, "Entry not found", "EntryNotFound", headers={"X-Repo-Commit": sha})
        name = quote(path.rsplit("/", 1)[-1])
        h = {"X-Repo-Commit": sha, "Content-Disposition": f"inline; filename*=UTF-8''{name}", "Vary": "Origin"}
        xet = self.store.cas.by_sha(e["lfs"]) if e["lfs"] and self.cfg.xet else None
        if xet:
            route = f"{self.base()}/api/{rtype}s/{rid}/xet-read-token/{sha}"
            h.update({"X-Xet-Hash": xet, "X-Xet-Refresh-Route": route, "Link": f'<{route}>; rel="xet-auth"'})
        if e["lfs"] and self.cfg.cdn_port:
            url = self.cdn_url_for(e["lfs"], path)
            return self.send(302, f"Found. Redirecting to {url}", {
                **h, "Location": url, "X-Linked-Etag": f'"{e["lfs"]}"', "X-Linked-Size": str(e["size"]),
                "Accept-Ranges": "bytes"}, ctype="text/plain; charset=utf-8")
        self.send_file(self.store.path_of(e), {**h, "ETag": f'"{e["lfs"] or e["oid"]}"'})

    def cdn(self, s):
        q = self.check_signed()
        if s[1] == "xorb":
            p = self.store.cas.path("xorbs", s[2])
            if not os.path.exists(p):
                raise ApiError(404, "NoSuchKey")
            return self.send_file(p, {"ETag": f'"{s[2]}"'})
        p = self.store.lfs_path(s[1])
        if not os.path.exists(p):
            raise ApiError(404, "NoSuchKey")
        self.send_file(p, {"ETag": f'"{s[1][:32]}"', "Last-Modified": email.utils.formatdate(os.path.getmtime(p), usegmt=True),
                           "Content-Disposition": f"inline; filename*=UTF-8''{quote(q.get('name', ''))}"})


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], (ConnectionError, Reset, ValueError, OSError)):
            super().handle_error(request, client_address)


def make_args(argv=None):
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    e = os.environ.get
    ap.add_argument("--root", default=e("MINIHUB_ROOT", "./minihub-data"))
    ap.add_argument("--host", default="127.0.0.1", choices=["127.0.0.1"])
    ap.add_argument("--port", type=int, default=int(e("MINIHUB_PORT", "8765")), help="0 = any free port")
    ap.add_argument("--cdn-port", type=int, default=int(e("MINIHUB_CDN_PORT", "-1")),
                    help="second port for signed up/downloads (-1 = any free port, 0 = none: same origin, no redirect)")
    ap.add_argument("--public-url", default=""), ap.add_argument("--cdn-url", default="")
    ap.add_argument("--token", action="append", default=[], help="user:token[:write|read] (default alice:hf_alice)")
    ap.add_argument("--org", action="append", default=[], help="org:user1,user2")
    ap.add_argument("--lfs-threshold", type=int, default=10_000_000, help="files over this are LFS whatever their name")
    ap.add_argument("--multipart-threshold", type=int, default=int(e("MINIHUB_MULTIPART", str(5 * 1000**3))))
    ap.add_argument("--multipart-chunk", type=int, default=16_000_000)
    ap.add_argument("--tree-page", type=int, default=1000)
    ap.add_argument("--expand-page", type=int, default=50)
    ap.add_argument("--upload-ttl", type=float, default=3600, help="seconds a signed upload URL is valid")
    ap.add_argument("--cdn-ttl", type=float, default=3600, help="seconds a signed download URL is valid")
    ap.add_argument("--no-xet", dest="xet", action="store_false", help="no CAS, no xet tokens (as an older server)")
    ap.add_argument("--xet-v1", dest="xet_v2", action="store_false", help="CAS without upload grants and v2 calls")
    ap.add_argument("--cas-url", default="", help="hand out this CAS URL instead, e.g. local:///some/dir")
    ap.add_argument("--xet-token-ttl", type=float, default=3600)
    ap.add_argument("--fault", action="append", default=[])
    ap.add_argument("--log", default=e("MINIHUB_LOG", ""), help="append one JSON line per request")
    ap.add_argument("--ready-file", default="", help="write {'endpoint':…} there once listening")
    a = ap.parse_args(argv)
    a.token, a.cas_port = a.token or ["alice:hf_alice", "bob:hf_bob"], 0
    a.nonce = os.urandom(8).hex()
    return a


def start(cfg):
    """-> (endpoint, state, stop()).  For tests: start(make_args(['--root', d, '--port', '0']))"""
    st = State(cfg)
    servers = []
    if cfg.cdn_port:
        servers.append(Server((cfg.host, max(0, cfg.cdn_port)), Handler))
        cfg.cdn_port = servers[0].server_address[1]
    servers.append(Server((cfg.host, cfg.port), Handler))
    cfg.port = servers[-1].server_address[1]
    if not cfg.cdn_port:
        cfg.cdn_url = cfg.cdn_url or f"http://{cfg.host}:{cfg.port}"
    for s in servers:
        s.state = st
        threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()

    def stop():
        for s in servers:
            s.shutdown()
            s.server_close()
    return f"http://{cfg.host}:{cfg.port}", st, stop


def main():
    cfg = make_args()
    endpoint, st, stop = start(cfg)
    user, tok, *_ = cfg.token[0].split(":")
    print(f"minihub on {endpoint} (signed up/downloads on port {cfg.cdn_port or cfg.port}), data in {st.store.root}\n"
          f"export HF_ENDPOINT={endpoint} HF_TOKEN={tok} HF_HUB_DISABLE_XET=1", flush=True)
    if cfg.ready_file:
        write_atomic(os.path.abspath(cfg.ready_file), json.dumps({"endpoint": endpoint, "cdn_port": cfg.cdn_port, "pid": os.getpid()}).encode())
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        stop()


if __name__ == "__main__":
    main()
