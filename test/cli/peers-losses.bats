# test/cli/peers-losses.bats -- TRADES and MART against PyTorch's autograd in float64, optimisers against torch.optim.
# Bounds are in test/peers/torch_losses.py.

# bats file_tags=slow
setup() {
    load ../helpers
    need_python torch
}

@test "losses of pairs and their gradients, and twenty steps of every optimiser, are PyTorch's" {
    run bash -o pipefail -c '"$1" | "$PYTHON" "$2"' - "${BIN%/bin}/test/peer_loss" "$ROOT/test/peers/torch_losses.py"
    echo "$output"
    assert_success
    assert_equal "$(grep -c 'worst error' <<<"$output")" 24
}
