# pipelines/data.mk -- the data sets: where their archives come from, and how they become tfrecords.
#
#   make data/CIFAR10                      fetch the archive, verify its published checksum, convert it
#   make data/SVHN ARCHIVES=~/downloads    take the archives from there
#   make data/CIFAR10 CHECKSUM=skip        take another archive of that format; manifest.json says so
#
# An archive that is not in ARCHIVES is fetched with curl, which goes on where it was broken off. Without a network
# the message says which file to put where. ImageNet is not to be had without an account. tfrec-convert reads
# archives as they are: nothing is unpacked. Conversion options can be set per data set: CIFAR10_CONVERT='--seed 7'.
ARCHIVES ?= $(DATA)/archives
CHECKSUM ?= verify
$(if $(filter-out verify skip,$(CHECKSUM)),$(error CHECKSUM is '$(CHECKSUM)': verify or skip is needed))

CIFAR10_URL ?= https://www.cs.toronto.edu/~kriz
SVHN_URL ?= http://ufldl.stanford.edu/housenumbers
FashionMNIST_URL ?= http://fashion-mnist.s3-website.eu-central-1.amazonaws.com

# The first of these names that is in ARCHIVES, else the first.
have = $(firstword $(wildcard $(addprefix $(ARCHIVES)/,$1)) $(addprefix $(ARCHIVES)/,$1))

# $(call fetched,FILES,URL): FILES in ARCHIVES come from URL.
define fetched
$(addprefix $(ARCHIVES)/,$1):
	@pipelines/fetch $$@ $2/$$(@F)

endef

# $(call converted,D,SET,INPUTS,SRC): data/D from SRC
define converted
$(call stage,$(DATA)/$1/manifest.json,$3,tfrec-convert,\
	tfrec-convert --set $2 --checksum $(CHECKSUM) $($1_CONVERT) -o $(DATA)/$1 $4)
$(sort data/$1 $(DATA)/$1): $(DATA)/$1/manifest.json
.PHONY: data/$1 $(DATA)/$1

endef

# The binary version is the smaller one; the Python version serves as well.
CIFAR10_NAMES := cifar-10-binary.tar.gz cifar-10-python.tar.gz
CIFAR10_CONVERT ?= --holdout 0.1 --seed 1234
$(eval $(call fetched,$(CIFAR10_NAMES),$(CIFAR10_URL)))
$(eval $(call converted,CIFAR10,cifar10,$(call have,$(CIFAR10_NAMES)),$(call have,$(CIFAR10_NAMES))))

SVHN_NAMES := train_32x32.mat test_32x32.mat
SVHN_CONVERT ?= --holdout 0.1 --seed 1234
$(eval $(call fetched,$(SVHN_NAMES),$(SVHN_URL)))
$(eval $(call converted,SVHN,svhn,$(addprefix $(ARCHIVES)/,$(SVHN_NAMES)),$(ARCHIVES)))

# ImageNet cannot be fetched. Its archives are taken as they are, or as class folders (ARCHIVES/train, ARCHIVES/val).
# The labels are names of classes, one line for each validation image (tfrec-convert --help). For the devkit's numbers:
# ImageNet_LABELS=DIR/ILSVRC2012_validation_ground_truth.txt ImageNet_CONVERT='--holdout-each 13 --synsets FILE'.
ImageNet_CONVERT ?= --holdout-each 13 --seed 1234
ImageNet_TRAIN_FROM := $(call have,ILSVRC2012_img_train.tar train)
ImageNet_VAL_FROM := $(call have,ILSVRC2012_img_val.tar val)
ImageNet_LABELS ?= $(if $(filter %.tar,$(ImageNet_VAL_FROM)),$(ARCHIVES)/ILSVRC2012_val_labels.txt)
$(eval $(call converted,ImageNet,imagenet$(if $(ImageNet_LABELS), --labels $(ImageNet_LABELS)),\
	$(ImageNet_TRAIN_FROM) $(ImageNet_VAL_FROM) $(ImageNet_LABELS),$(ARCHIVES)))
$(addprefix $(ARCHIVES)/,ILSVRC2012_img_train.tar ILSVRC2012_img_val.tar):
	@echo "$(@F) is missing: ImageNet can be had with an account at https://image-net.org/download-images;" \
		"put it into $(@D), or say where it is: make ARCHIVES=DIR" >&2; false
$(ARCHIVES)/ILSVRC2012_val_labels.txt:
	@echo "$(@F) is missing: the class (n01440764, ...) of each validation image, a line each in the order of the" \
		"images' names; put it into $(@D), or set ImageNet_LABELS=FILE" >&2; false
