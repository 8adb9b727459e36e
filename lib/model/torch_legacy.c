#include "model/torch_file.h"
const struct hr_container hr_torch_legacy = {"legacy", NULL, NULL};
const struct hr_container hr_safetensors = {"safetensors", NULL, NULL};
