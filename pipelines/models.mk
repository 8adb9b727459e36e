# pipelines/models.mk -- the published pretrained networks: fetched, and converted.
#
#   make models                            fetch torch-models.zip (or take it from ARCHIVES), convert what is in it
#   make models/CIFAR10/resnet18.nn        only this one
#
# No checksum was published with it; the history of every network holds the SHA-256 of the archive's member.
MODELS ?= models
MODELS_URL ?= https://www.dropbox.com/s/u0wavt1kw827nsj/torch-models.zip?dl=1
MODELS_ZIP := $(ARCHIVES)/torch-models.zip

$(MODELS_ZIP):
	@pipelines/fetch $@ '$(MODELS_URL)'

# $(call model,D,A,NAMES,d,OPTIONS): members NAME_pretrain_d.pth.tar, in any directory; d is how they spell D
define model
MODEL_FILES += $(MODELS)/$1/$2.nn
$(call stage,$(MODELS)/$1/$2.nn,$(MODELS_ZIP),torch2nn,\
	pipelines/model $(MODELS)/$1/$2.nn $(MODELS_ZIP)\
	$(foreach n,$3,$(foreach e,pth.tar tar,$(n)_pretrain_$4.$(e))) -- $5)

endef
$(foreach d,CIFAR10:cifar10 SVHN:svhn,\
	$(eval $(call model,$(word 1,$(subst :, ,$d)),vgg16_bn,vgg16_bn,$(word 2,$(subst :, ,$d))))\
	$(eval $(call model,$(word 1,$(subst :, ,$d)),resnet18,resnet18,$(word 2,$(subst :, ,$d))))\
	$(eval $(call model,$(word 1,$(subst :, ,$d)),wrn_28_4,wrn_28_4 wrn284,$(word 2,$(subst :, ,$d)))))
comma := ,
$(eval $(call model,ImageNet,ResNet50,ResNet50 resnet50,imagenet,\
	--mean 0.485$(comma)0.456$(comma)0.406 --std 0.229$(comma)0.224$(comma)0.225))

models: $(MODEL_FILES) ## fetch the published pretrained networks and convert them
.PHONY: models
