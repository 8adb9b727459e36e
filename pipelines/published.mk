# pipelines/published.mk -- the published experiments: any of their files by name, and their settings as data.
#
#   make runs/CIFAR10/resnet18/weight-0.01/001_0/hydra/seed-0/eval.json STRATEGIES=DIR
#   make runs/SVHN/wrn_28_4/channel-0.5/05_uni/radmm/seed-0/eval.json
#
# D is CIFAR10, SVHN or ImageNet, A a network of the zoo, ID an entry A/REG/ID of STRATEGIES/D.json (or heracles/D.json there,
# as in a checkout of the published strategies, whose ImageNet is imagenet.json), or a rule (uniform,
# erk, lamp, ...). An ID that is in no file is searched for, with the number behind its last _ as the seed. Only stages
# of the goals that make was given are declared. What is set here can be set on the command line, too. The dense network
# is the published one where `make models` has put it (MODELS/D/A.nn); else it is trained.

# HYDRA (its configurations): PGD-10, at .031 and .0078; batches of 256; cosines that move once an epoch, and an epoch
# late, and noise of free training that begins anew with every epoch, as its program has them (--reference hydra).
# R-ADMM: 8/255 and 2/255, batches of 128, batch norm with its own statistics during the attack, a rate that falls twice
# within every 30 epochs. Measured is always at 8/255.
CIFAR10_ATTACK ?= --eps 0.031 --step 0.0078
CIFAR10_TRAIN ?= --reference hydra --batch 256 --steps 10 --weight-decay 1e-4 --schedule cosine-epoch --augment crop-flip
CIFAR10_PRETRAIN ?= --epochs 100 --lr 0.1
CIFAR10_PRUNE ?= --epochs 20 --lr 0.1
CIFAR10_FINETUNE ?= --epochs 100 --lr 0.01
CIFAR10_RADMM ?= --eps 8/255 --step 2/255 --batch 128 --steps 10 --weight-decay 1e-4 --attack-bn batch+update --augment crop-flip
CIFAR10_ADMM ?= --epochs 100 --lr 0.01 --schedule cycle --admm-every 30 --rho 1e-3
CIFAR10_RETRAIN ?= --warmup-epochs 15 --warmup-ramp --warmup-lr 1e-4 --epochs 85 --lr 0.01 --schedule multistep --milestones 80,150
CIFAR10_REWARD ?= --eps 8/255 --step 2/255 --steps 10 --batch 128
CIFAR10_EVAL ?= --eps 8/255 --step 2/255 --attacks clean,pgd20,cw

# SVHN: ten epochs on FGSM at a rate of 0.1 before every stage of HYDRA; R-ADMM's first twenty on FGSM.
SVHN_ATTACK ?= $(CIFAR10_ATTACK)
SVHN_TRAIN ?= $(CIFAR10_TRAIN) --warmup-epochs 10 --warmup-lr 0.1 --warmup-loss fgsm
SVHN_PRETRAIN ?= $(CIFAR10_PRETRAIN)
SVHN_PRUNE ?= $(CIFAR10_PRUNE)
SVHN_FINETUNE ?= $(CIFAR10_FINETUNE)
SVHN_RADMM ?= $(CIFAR10_RADMM)
SVHN_ADMM ?= $(CIFAR10_ADMM) --fgsm-epochs 20
SVHN_RETRAIN ?= --epochs 100 --lr 0.01 --schedule multistep --milestones 80
SVHN_REWARD ?= $(CIFAR10_REWARD)
SVHN_EVAL ?= $(CIFAR10_EVAL)

# ImageNet: free training with 4 repeats, hence a quarter of the epochs (and the schedule over those, ALG Q15).
ImageNet_ATTACK ?= --eps 0.0156 --step 0.00392
ImageNet_TRAIN ?= --reference hydra --loss free --repeats 4 --batch 256 --weight-decay 1e-4 --schedule cosine-epoch --augment resized-flip
ImageNet_PRETRAIN ?= --epochs 25 --lr 0.1
ImageNet_PRUNE ?= --epochs 5 --lr 0.1
ImageNet_FINETUNE ?= --epochs 25 --lr 0.01
ImageNet_RADMM ?= --eps 4/255 --step 1/255 --loss free --repeats 4 --batch 1024 --weight-decay 1e-4 --augment resized-flip
ImageNet_ADMM ?= --epochs 25 --lr 0.01 --schedule cycle --admm-every 10 --rho 1e-3
ImageNet_RETRAIN ?= --epochs 25 --lr 0.01 --schedule constant
ImageNet_REWARD ?= --eps 4/255 --step 1/255 --steps 10 --batch 128
ImageNet_EVAL ?= --eps 4/255 --step 1/255 --attacks clean,pgd20,cw

# Published strategies that cost more than their ID says (`maskapply --audit` tells which and why) are used all the same,
# with a warning by name: --over-budget warn; of an ID that ends in _all the image channels
# are pruned, too.
as_published = --over-budget warn$(if $(filter %_all,$1), --prune-first)

# Declare what is not declared yet: $(call published_once,OUT,CALL)
published_once = $(if $(filter $1,$(STAGES)),,$(eval $2))
# Is A/REG/ID in the file? Before the tools are built only its ID is looked for. $(call published_in,FILE,A/REG/ID,ID)
published_in = $(if $(wildcard $1),$(shell if [ -x '$(BUILD)/bin/maskapply' ]; then \
	'$(BUILD)/bin/maskapply' --audit '$1' | cut -f 1 | grep -Fx '$2'; else grep -Fo '"$3"' '$1' | head -n 1; fi))

# $(call published_file,D): the first of the files that it may be, or nothing
published_file = $(firstword $(wildcard $(foreach d,$1 $(if $(filter ImageNet,$1),imagenet),\
	$(STRATEGIES)/$d.json $(STRATEGIES)/heracles/$d.json)))

# $(call published_strategy,D,A,REG,RATE,ID,FILE): an extract of the file, a rule, or a search
define published_strategy
$(if $(call published_in,$6,$2/$3/$5,$5),$(call stage,$(RUNS)/$1/$2/$3-$4/$5/strategy.json,\
	$(RUNS)/$1/$2/pretrain.nn $6,maskapply,\
	maskapply -q --plan -r $3 -s $6:$2/$3/$5 $(call as_published,$5) --label $5\
	--strategy-out $(RUNS)/$1/$2/$3-$4/$5/strategy.json -o /dev/null $(RUNS)/$1/$2/pretrain.nn),\
$(if $(filter uniform uniform+ erk lamp global,$5),$(call ruled,$1,$2,$3,$4,$5),\
$(call searched,$1,$2,$3,$4,$5,$($1_SEARCH) --seed $(or $(filter-out $5,$(lastword $(subst _, ,$(subst -, ,$5)))),1))))
endef

# $(call radmm,D,PLANNED,DIR,LABEL,SEED,REG,STRATEGY)
define radmm
$(call stage,$3/admm.nn,$2 $(DATA)/$1/manifest.json,advtrain,\
	advtrain --stage admm -d $(DATA)/$1/rest.tfrecord $($1_RADMM) $($1_ADMM) --seed $5\
	--log $3/admm.jsonl -o $3/admm.nn $2)
$(call stage,$3/masked.nn,$3/admm.nn $7,maskapply,\
	maskapply -q -r $6 -s $7 --score l2 $(call as_published,$4) --label $4 -o $3/masked.nn $3/admm.nn)
$(call stage,$3/retrain.nn,$3/masked.nn $(DATA)/$1/manifest.json,advtrain,\
	advtrain --stage finetune -d $(DATA)/$1/rest.tfrecord $($1_RADMM) $($1_RETRAIN) --seed $5\
	--log $3/retrain.jsonl -o $3/retrain.nn $3/masked.nn)
$(call evaluate,$1,$3/retrain.nn,$3/eval.json,$4)
endef

# The dense network; a strategy and what it keeps; an experiment from the data to its measurement:
# $(call published_network,D,A) $(call published_plan,D,A,REG,RATE,ID) $(call published,D,A,REG,RATE,ID,METHOD,SEED)
published_network = $(call published_once,$(RUNS)/$1/$2/pretrain.nn,$(if $(wildcard $(MODELS)/$1/$2.nn),\
	$(call network_taken,$1,$2),$(call network,$1,$2)))
# The file that is there, by a name for which make knows no rule: the archive that it came from may be gone.
define network_taken
$(call stage,$(RUNS)/$1/$2/pretrain.nn,$(MODELS)/./$1/$2.nn,,pipelines/take $(RUNS)/$1/$2/pretrain.nn $(MODELS)/./$1/$2.nn)
$(call described,$1,$2)
endef
define published_plan
$(call published_network,$1,$2)
$(call published_once,$(RUNS)/$1/$2/$3-$4/$5/strategy.json,$(call published_strategy,$1,$2,$3,$4,$5,$(call published_file,$1)))
$(call published_once,$(RUNS)/$1/$2/$3-$4/$5/planned.nn,$(call planned,$1,$2,$3,$4,$5,$(call as_published,$5)))
endef
define published
$(call published_plan,$1,$2,$3,$4,$5)
$(call published_once,$(RUNS)/$1/$2/$3-$4/$5/$6/seed-$7/eval.json,$(if $(filter radmm,$6),\
	$(call radmm,$1,$(RUNS)/$1/$2/$3-$4/$5/planned.nn,$(RUNS)/$1/$2/$3-$4/$5/radmm/seed-$7,$5,$7,$3,$(RUNS)/$1/$2/$3-$4/$5/strategy.json),\
	$(call hydra,$1,$(RUNS)/$1/$2/$3-$4/$5/planned.nn,$(RUNS)/$1/$2/$3-$4/$5/hydra/seed-$7,$5,$7)))
endef

# A goal by the words of its name: D A FILE, D A REG-RATE ID FILE, or D A REG-RATE ID METHOD seed-S FILE.
# $(call published_goal,WORDS,REG RATE)
published_goal = $(if $(filter 3,$(words $1)),$(call published_network,$(word 1,$1),$(word 2,$1)),\
	$(if $(filter weight channel,$(word 1,$2)),$(if $(filter 5,$(words $1)),\
	$(call published_plan,$(word 1,$1),$(word 2,$1),$(word 1,$2),$(word 2,$2),$(word 4,$1)),\
	$(if $(filter hydra radmm,$(word 5,$1)),$(if $(filter 7,$(words $1)),\
	$(call published,$(word 1,$1),$(word 2,$1),$(word 1,$2),$(word 2,$2),$(word 4,$1),$(word 5,$1),$(patsubst seed-%,%,$(word 6,$1))))))))
$(foreach g,$(filter $(foreach d,CIFAR10 SVHN ImageNet,$(RUNS)/$d/%),$(MAKECMDGOALS)),\
	$(call published_goal,$(subst /, ,$(patsubst $(RUNS)/%,%,$g)),$(subst -, ,$(word 3,$(subst /, ,$(patsubst $(RUNS)/%,%,$g))))))
