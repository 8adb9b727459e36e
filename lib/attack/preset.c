/* lib/attack/preset.c -- the radius and the step that results on a data set are published with.
 *
 * CIFAR-10 and SVHN: 8/255 and 2/255, as R-ADMM attacks and the search does (HYDRA writes .031 and .0078,
 * which advtrain --reference hydra takes). ImageNet: 4/255 and 1/255, both of them. Fashion-MNIST is not
 * among the published sets; 0.1 is the usual radius there, with steps of a quarter of it. */
#include "attack/attack.h"

#include <string.h>

static const hr_attack_preset presets[] = {
    {"CIFAR10", 8.0 / 255.0, 2.0 / 255.0},
    {"SVHN", 8.0 / 255.0, 2.0 / 255.0},
    {"ImageNet", 4.0 / 255.0, 1.0 / 255.0},
    {"FashionMNIST", 0.1, 0.025},
};

const hr_attack_preset *hr_attack_preset_of(const char *data)
{
    for (size_t i = 0; i < HR_COUNT(presets); i++)
        if (data && strcmp(presets[i].data, data) == 0)
            return &presets[i];
    return &presets[0];
}
