# The whole zoo on the device (the shim of test/shim), beside the CPU.
@test "every network of the zoo gives the CPU's logits and gradients on the device" {
    "$(dirname "$BIN")/test/test_cuda_zoo" all
}
