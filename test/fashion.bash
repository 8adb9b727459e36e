# test/fashion.bash -- small pieces of Fashion-MNIST for tool tests: `load ../fashion` in setup_file().
# A record of these tfrecords has one length for all images, so a file may be cut after any of them.

# fashion DIR TRAIN TEST: DIR/train.tfrecord and DIR/test.tfrecord with that many images
fashion() {
    local src=/usr/share/datasets/fashion-mnist set n record
    mkdir -p "$1/all"
    tfrec-convert -q --set fashion-mnist -o "$1/all" $src
    for set in train:$2 test:$3; do
        n=${set#*:} set=${set%:*}
        record=$(($(od -An -t u8 -N 8 "$1/all/$set.tfrecord") + 16))
        head -c $((record * n)) "$1/all/$set.tfrecord" >"$1/$set.tfrecord"
    done
    rm -r "$1/all"
}

# A small network that was trained for a few seconds: fashion_net OUT TRAIN [OPTION]...
fashion_net() {
    local out=$1 data=$2
    shift 2
    advtrain -q --threads 1 --arch resS -d "$data" --loss natural --limit 1000 --epochs 3 --batch 32 --lr 0.05 \
        --warmup-steps 10 "$@" -o "$out"
}

# fashion_set TRAIN TEST [OPTION]...: goes to the directory that a file's tests share and makes train.tfrecord and
# test.tfrecord with that many images there, and the network net.nn
fashion_set() {
    fashion "$BATS_FILE_TMPDIR" "$1" "$2"
    cd "$BATS_FILE_TMPDIR" || return
    fashion_net net.nn train.tfrecord "${@:3}"
}

# planned.nn, with rates for --stage prune, and pruned.nn, out of net.nn
fashion_pruned() {
    maskapply -q --plan -s uniform:0.3 -r weight -o planned.nn net.nn
    maskapply -q -s uniform:0.3 -r channel -o pruned.nn net.nn
}

# pick FILE EXPRESSION: what a Python expression makes of the JSON document j, or of the lines' list l
pick() {
    python3 -c '
import json, sys
l = [json.loads(line) for line in open(sys.argv[1])]
j = l[0]
print(eval(sys.argv[2]))' "$1" "$2"
}
