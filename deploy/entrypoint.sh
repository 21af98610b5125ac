#!/bin/sh
# Puts the kernels that were compiled in the build where numba may write, and becomes the server.
#
# numba takes a cache only from a folder that it can write to, and the image's is read-only. On another kind of processor
# than the one that built the image it finds nothing of use there, compiles (some seconds) and keeps the result in the
# same place. Where that cannot be written either, it compiles at each start.
if [ ! -d "$NUMBA_CACHE_DIR" ]; then
    cp -R /opt/kernels "$NUMBA_CACHE_DIR" 2>/dev/null ||
        echo "weightloom: $NUMBA_CACHE_DIR cannot be written: the kernels are compiled anew (give /tmp a tmpfs)" >&2
fi
exec weightloom "$@"
