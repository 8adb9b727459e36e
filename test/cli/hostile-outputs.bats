# Outputs that cannot be written, for every tool and each of its outputs: the tables are in test/hostile.py. Status 1,
# one line, no partial file, and no older product replaced, not by a tool's other outputs either.
setup() {
    load ../helpers
    load ../hostile
}

@test "missing directories, full devices, closed pipes and names that are taken are refused, nothing is replaced" {
    hostile outputs 100
}

@test "a disk that fills up while writing leaves the older files" {
    hostile limited 8
}

@test "full and read-only file systems leave the older files" {
    local how=(unshare -m)
    [ "$(id -u)" = 0 ] || how=(unshare -rm)
    "${how[@]}" mount -t tmpfs none "$BATS_TEST_TMPDIR" 2>/dev/null || skip "may not mount a file system here"
    hostile mounted 20 "${how[@]}"
}

@test "an output directory that vanishes during a search is refused, the tables of before stay" {
    hostile vanished 2
}

@test "closed standard descriptors are errors where they are needed and never mix into files" {
    hostile closed 9
}

@test "one name for two ends, names that are not UTF-8 or span lines are refused" {
    hostile misuse 10
}
