/* test/unit/test_cuda.c -- the operations on a device and small networks of them against the oracle, in every
 * mode of batch norm: test_compute.c's tests, with their bounds. (Left out are those of the CPU's engine
 * alone: threads, panels of weight gradients, plans, losses on the host.) */
#define main compute_main
int compute_main(void);
#include "test_compute.c"
#undef main

#include "cuda.h"

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conv_matches_ref_for_all_widths),
        cmocka_unit_test(test_conv_matches_ref_for_all_windows),
        cmocka_unit_test(test_conv_matches_ref_for_all_batches),
        cmocka_unit_test(test_conv_on_awkward_images_matches_ref),
        cmocka_unit_test(test_large_conv_matches_ref),
        cmocka_unit_test(test_linear_matches_ref),
        cmocka_unit_test(test_batchnorm_and_what_is_fused_around_it_match_ref),
        cmocka_unit_test(test_pools_match_ref_and_ties_go_to_the_first),
        cmocka_unit_test(test_adaptive_pools_match_ref),
        cmocka_unit_test(test_elementwise_steps_match_ref),
        cmocka_unit_test(test_small_graphs_match_ref_in_all_modes),
        cmocka_unit_test(test_part_of_the_planned_batch_matches_ref),
        cmocka_unit_test(test_active_masks_of_the_model_match_ref),
        cmocka_unit_test(test_given_masks_multiply_weights_from_the_next_params_on),
        cmocka_unit_test(test_params_follow_moved_statistics),
        cmocka_unit_test(test_folded_samples_do_not_see_each_other),
        cmocka_unit_test(test_flags_combine_without_changing_bits),
        cmocka_unit_test(test_only_update_moves_running_statistics),
        cmocka_unit_test(test_nan_reaches_the_logits_of_its_sample_only),
    };
    on_the_shim();
    return cmocka_run_group_tests_name("cuda", tests, NULL, NULL);
}
