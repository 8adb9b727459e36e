# pipelines/fashion-mnist.mk -- Fashion-MNIST: where it comes from, and the hyperparameters of every stage.
#
# 28x28 grey images, pixels in [0,1]. eps 0.1 and step 0.025 (pixel units) are the usual radius for this set;
# the stages are short, for two cores and ten minutes. Override any line on the command line:
#   make demo FashionMNIST_FINETUNE='--epochs 5 --lr 0.05 --limit 10000'
FashionMNIST_ATTACK ?= --eps 0.1 --step 0.025
# What the warm-up of a search tries first, before it goes on at random. Not at the tiny size, where three episodes
# would be all that there is.
FashionMNIST_STARTS ?= $(if $(filter tiny,$(DEMO_SIZE)),,uniform erk lamp)
FashionMNIST_TRAIN ?= --batch 128 --steps 7 --weight-decay 5e-4 --schedule cosine
ifeq ($(DEMO_SIZE),tiny) # every rule runs, nothing is learnt: for tests
FashionMNIST_PRETRAIN ?= --epochs 1 --lr 0.1 --limit 256
FashionMNIST_PRUNE ?= --epochs 1 --lr 0.1 --limit 128
FashionMNIST_FINETUNE ?= --epochs 1 --lr 0.05 --limit 128
FashionMNIST_FINETUNE_LONG ?= --epochs 1 --lr 0.05 --limit 256
FashionMNIST_SEARCH ?= --warmup 3 --episodes 3
FashionMNIST_RANDOM ?= --warmup 6 --episodes 0
FashionMNIST_REWARD ?= --steps 1 --limit 100 --batch 100
FashionMNIST_EVAL ?= --attacks clean,fgsm,pgd20,cw --limit 50 --stratified
else
ifeq ($(DEMO_SIZE),night) # make fmnist: every image, the published episodes
FashionMNIST_PRETRAIN ?= --epochs 30 --lr 0.1 --warmup-steps 400
FashionMNIST_PRUNE ?= --epochs 20 --lr 0.1
FashionMNIST_FINETUNE ?= --epochs 30 --lr 0.05
FashionMNIST_SEARCH ?= --warmup 100 --episodes 300 --action log --ub 1 --sigma 0.2
FashionMNIST_RANDOM ?= --warmup 400 --episodes 0 --action log --ub 1
FashionMNIST_REWARD ?= --steps 10 --batch 100 --reward-after 10 --train $(DATA)/FashionMNIST/rest.tfrecord
FashionMNIST_EVAL ?= --attacks clean,fgsm,pgd20,cw
endif
FashionMNIST_PRETRAIN ?= --epochs 8 --lr 0.1 --warmup-steps 40 --limit 10000
FashionMNIST_PRUNE ?= --epochs 1 --lr 0.1 --limit 6000
FashionMNIST_FINETUNE ?= --epochs 2 --lr 0.05 --limit 6000
# The study's second length.
FashionMNIST_FINETUNE_LONG ?= --epochs 5 --lr 0.05 --limit 10000
# Actions on a log scale: at this size the published linear ones stay at chance. No upper bound: small layers are
# cheap, and want to be whole. Little noise: the starts are good already.
FashionMNIST_SEARCH ?= --warmup 40 --episodes 60 --action log --ub 1 --sigma 0.2
# As many evaluations, none of them the agent's.
FashionMNIST_RANDOM ?= --warmup 100 --episodes 0 --action log --ub 1
# What a strategy is worth: accuracy clean and under PGD-3 on 1,000 images that no stage trains on, after ten steps of
# learning scores. Right after masking, low budgets are all near chance, and ERK seems better than LAMP.
FashionMNIST_REWARD ?= --steps 3 --limit 1000 --batch 100 --reward-after 10 --train $(DATA)/FashionMNIST/rest.tfrecord
# Clean on all 10,000 test images, the attacks on 2,000, as many of each class.
FashionMNIST_EVAL ?= --attacks clean,fgsm,pgd20,cw --limit 2000 --stratified
endif

# Training uses rest, the search holdout: together they are the training images, and nothing is in both. The files
# are those in ARCHIVES, or those of Debian's dataset-fashion-mnist (make deps), or are fetched (data.mk).
FASHION_MNIST_NAMES := $(foreach f,train-images-idx3 train-labels-idx1 t10k-images-idx3 t10k-labels-idx1,$f-ubyte.gz)
FASHION_MNIST ?= $(patsubst %/,%,$(dir $(firstword $(wildcard $(addsuffix /$(firstword $(FASHION_MNIST_NAMES)),\
	$(ARCHIVES) /usr/share/datasets/fashion-mnist)) $(ARCHIVES)/)))
FASHION_MNIST_FILES := $(addprefix $(FASHION_MNIST)/,$(FASHION_MNIST_NAMES))
FashionMNIST_CONVERT ?= --holdout 0.1 --seed 1234
$(eval $(call fetched,$(FASHION_MNIST_NAMES),$(FashionMNIST_URL)))
$(eval $(call converted,FashionMNIST,fashion-mnist,$(FASHION_MNIST_FILES),$(FASHION_MNIST)))
ifneq ($(FASHION_MNIST),$(ARCHIVES))
$(FASHION_MNIST_FILES):
	@echo "$@ is missing: make deps installs Debian's dataset-fashion-mnist, or set FASHION_MNIST=DIR" >&2; false
endif
