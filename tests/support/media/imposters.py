"""These functions make files that are called like videos and are playlists, pictures or bombs."""

import base64
import gzip
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path


def write_playlist(address: str) -> bytes:
    """Return an HLS playlist of one segment."""
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:2.0,\n"
    return f"{head}{address}\n#EXT-X-ENDLIST\n".encode()


def write_dash(address: str) -> bytes:
    """Return a DASH manifest of one segment."""
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT2S" profiles="urn:mpeg:dash:profile:isoff-main:2011">'
        '<Period><AdaptationSet contentType="video"><Representation id="0" bandwidth="1" '
        f'mimeType="video/mp4" codecs="avc1"><BaseURL>{address}</BaseURL><SegmentBase '
        'indexRange="0-9"/></Representation></AdaptationSet></Period></MPD>'
    ).encode()


def write_png(width: int, height: int) -> bytes:
    """Return a PNG that states this size and holds less."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1 << 20))),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def list_scripts(secret: Path, url: str) -> Iterator[tuple[str, bytes]]:
    """Yield texts that name another file, relative and absolute, or an address."""
    relative = f"{secret.parent.name}/{secret.name}"
    inline = "data:video/mp4;base64," + base64.b64encode(secret.read_bytes()[:3000]).decode()
    id3 = b"ID3\4\0\0\0\0\0\x0a" + bytes(10)
    places = {"relative": relative, "absolute": str(secret), "file": f"file:{secret}",
              "http": url, "data": inline, "concat": f"concat:{secret}|{secret}",
              "crypto": f"crypto:{secret}", "up": f"x/../{relative}"}  # fmt: skip
    for name, place in places.items():
        script = f"ffconcat version 1.0\nfile '{place}'\n".encode()
        for kind, text in (
            ("hls", write_playlist(place)), ("ffconcat", script), ("dash", write_dash(place)),
        ):  # fmt: skip
            yield f"{kind} {name}", text
            yield f"{kind} {name} behind an ID3 tag", id3 + text
        yield f"bare {name}", place.encode()
    yield "ffconcat with a NUL", f"ffconcat version 1.0\n\0\nfile {relative}\n".encode()
    yield "hls with bytes of no text", write_playlist(relative).replace(b"U\n", b"U\n\1\2\n", 1)
    key = f'#EXT-X-KEY:METHOD=AES-128,URI="{relative}"\n#EXTINF:2.0,\n'
    yield "hls with a key", write_playlist(relative).replace(b"#EXTINF:2.0,\n", key.encode())
    address = url.removeprefix("http://").partition("/")[0].partition(":")
    sdp = "v=0\no=- 0 0 IN IP4 {0}\ns=x\nc=IN IP4 {0}\nt=0 0\nm=video {2} RTP/AVP 96\n"
    yield "sdp", (sdp.format(*address) + "a=rtpmap:96 H264/90000\n").encode()
    yield "vobsub", b"# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\n"
    entity = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "{url}">]>'.encode()
    yield "dash with an entity", entity + write_dash("&e;").partition(b"?>")[2]
    svg = f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/></svg>'
    yield "svg", svg.encode()
    yield "reference", f"[Reference]\nRef1={url}\n".encode()
    yield "redirect", f"RTSPtextRTSP://{address[0]}:{address[2]}/\n".encode()


def list_pictures() -> Iterator[tuple[str, bytes]]:
    """Yield files that are no videos, or state absurd sizes."""
    yield "png", write_png(64, 48)
    yield "png 16000 x 16000", write_png(16000, 16000)
    yield "png 65535 x 65535", write_png(65535, 65535)
    picture = b"\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"
    for width, height in ((65535, 65535), (16000, 16000), (0, 0)):
        head = b"GIF89a" + struct.pack("<HHB", width, height, 0x80) + b"\0\0\0\xff\xff\xff"
        yield f"gif {width} x {height}", head[:11] + b"\0" + picture
        yield f"gif {width} x {height} with colours", head[:11] + b"\0\0" + head[11:] + picture[2:]
    yield "gzip", gzip.compress(bytes(1 << 20), mtime=0)
    yield "swf", b"FWS\x0a" + struct.pack("<I", 200) + bytes(192)
    yield "packed swf", b"CWS\x0a" + struct.pack("<I", 2**31 - 1) + zlib.compress(bytes(1 << 20))
    yield "empty id3", b"ID3\4\0\0\0\0\0\0"
    yield "endless id3", b"ID3\4\0\0\x7f\x7f\x7f\x7f" + bytes(5000)
    yield "ids", b"ID3\4\0\0\0\0\0\0" * 20_000
    yield "y4m 16000 x 16000", b"YUV4MPEG2 W16000 H16000 F25:1 C420jpeg\nFRAME\n" + bytes(9)
    yield "zeros", bytes(100_000)
    yield "subtitles", b"1\n00:00:01,000 --> 00:00:02,000\nhello\n\n" * 50
    yield "page", b"<html>This video is not available</html>" * 50
    yield "one byte", b"\0"
