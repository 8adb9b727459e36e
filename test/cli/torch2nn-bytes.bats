# test/cli/torch2nn-bytes.bats -- checkpoints made byte by byte (test/torch_bytes.py): every age of PyTorch's format is
# read, hostile ones are refused with one line, in a gigabyte of address space.
setup() {
    load ../helpers
}

torch_bytes() { # torch_bytes CLAIM AT_LEAST
    run env BIN="$BIN" TMPDIR="$BATS_TEST_TMPDIR" python3 "$ROOT/test/torch_bytes.py" "$1"
    assert_success
    assert_output --regexp '^[0-9]+ commands, 0 at fault$'
    assert [ "${output%% *}" -ge "$2" ]
}

@test "checkpoints of every protocol and age, shared, strided, wrapped and packed, give the same tensors" {
    torch_bytes ages 40
}

@test "pickles that want to run something, nest, bloat or lie are refused, and nothing is run" {
    torch_bytes pickles 80
}

@test "tensors that leave their storage, ask for gigabytes or do not fit are refused by name" {
    torch_bytes tensors 40
}

@test "zip, legacy and safetensors files whose parts contradict each other are refused" {
    torch_bytes containers 300
}
