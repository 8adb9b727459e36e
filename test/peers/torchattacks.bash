# test/peers/torchattacks.bash -- source it: torchattacks_python DIR sets PYTHON to one that has torch and torchattacks.
#
# That is $PYTHON_ATTACKS, or $PYTHON, $PYTHON_NEW or Debian's where these have the package already, else a virtual
# environment in DIR, made once, which adds it from the registry to the first of them that has torch. 1: there is none.
torchattacks_python() {
    local p has='import torch, torchattacks'
    for p in ${PYTHON_ATTACKS:+"$PYTHON_ATTACKS"} ${PYTHON:+"$PYTHON"} ${PYTHON_NEW:+"$PYTHON_NEW"} /usr/bin/python3 \
        "$1/bin/python"; do
        if "$p" -c "$has" 2>/dev/null; then
            PYTHON=$p
            return
        fi
    done
    for p in ${PYTHON_ATTACKS:+"$PYTHON_ATTACKS"} ${PYTHON:+"$PYTHON"} ${PYTHON_NEW:+"$PYTHON_NEW"} /usr/bin/python3; do
        "$p" -c 'import torch' 2>/dev/null || continue
        "$p" -m venv --system-site-packages "$1" && "$1/bin/pip" install -q --no-deps torchattacks &&
            "$1/bin/pip" install -q requests tqdm scipy && "$1/bin/python" -c "$has" || continue
        PYTHON=$1/bin/python
        return
    done
    return 1
}
