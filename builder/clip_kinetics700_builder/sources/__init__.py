"""Where a clip's bytes are: in a directory of videos, in an archive of CVDF's, or nowhere.

Clips come in; paths, archives, the bytes of clips and the reasons why there are none go out. The
room decodes nothing, and torch and the video libraries must not be imported here. Others use
`directory.index_videos` and `find_clip`, `archive.read_clips`, `cvdf.find_archives`,
`annotation_cache.find_annotations`, and `ledger` for `FetchError` and for when to try again.
"""
