# pipelines/rules.mk -- how experiments become make rules.
#
# An experiment is declared in one line (see demo.mk); the templates below turn it into stages, each a file made
# by one command from other files:
#
#   runs/D/A/pretrain.nn                               adversarial training         $(call network,D,A)
#   runs/D/A/layers.json                               its prunable layers
#   runs/D/A/eval.json                                 the dense network, attacked
#   runs/D/A/REG-RATE/search-N/strategy.json           a search with seed N         $(call search,D,A,REG,RATE,N)
#   runs/D/A/REG-RATE/random-N/strategy.json           the best of random ones      $(call random,D,A,REG,RATE,N)
#   runs/D/A/REG-RATE/search-N/best.nn                 the network as the search saw it: masked, not trained
#   runs/D/A/REG-RATE/ID/strategy.json                 keep-rates by a rule         $(call pruned,D,A,REG,RATE,ID)
#   runs/D/A/REG-RATE/ID/planned.nn                    keep-rates written in
#   runs/D/A/REG-RATE/ID/hydra/seed-S/prune.nn         HYDRA's scores learnt
#   runs/D/A/REG-RATE/ID/hydra/seed-S/finetune.nn      what is left, trained
#   runs/D/A/REG-RATE/ID/hydra/seed-S/eval.json        and attacked
#
#   runs/D/A/REG-RATE/ID/radmm/seed-S/{admm,masked,retrain}.nn, eval.json    R-ADMM     (published.mk)
#
# D is a data set (its hyperparameters stand in a file of its own, fashion-mnist.mk), A an architecture, REG
# weight or channel, ID search-N or a rule of maskapply (uniform, erk, lamp, ...).
#
# A stage runs when its product is not there, its command is another, an input holds something else than it did, or
# a stage before it runs; OUT.args beside the product keeps the command and a digest of each input (pipelines/stage).
# So a changed option reruns exactly the stages that use it and those behind them, and a file that was only touched
# or copied reruns nothing. That is decided once, by pipelines/stale, while make reads this file, without writing
# anything: make's own comparison of times has no part in it (all prerequisites are order-only), and `make -n` and
# `make status` tell what make would do. A rebuilt tool does not redo a night's work. Beside each product stands
# OUT.log.
#
# A stage that is interrupted leaves OUT.state, and the same make goes on from it (pipelines/stage). Tools write their
# products whole or not at all, so that make must not remove what a tool finished while make was being interrupted.

SEED ?= 1
# Threads of one stage: the processors, shared by make's jobs (in a recipe MAKEFLAGS holds -jN).
JOBS = $(or $(patsubst -j%,%,$(filter -j%,$(MAKEFLAGS))),1)
THREADS ?= $(shell t=$$(($$(nproc) / $(JOBS))); echo $$((t > 0 ? t : 1)))

# Stages call the tools by name; a rebuilt tool must not be looked for elsewhere first.
export PATH := $(abspath $(BUILD)/bin):$(PATH)

# The command as OUT.args remembers it: the same wherever RUNS and DATA are.
args_of = $(strip $(subst $(RUNS)/,runs/,$(subst $(DATA)/,data/,$1)))

# Non-empty when OUT.args holds this command: $(call made_by,OUT,COMMAND). The digests stand behind "instead of".
made_by = $(findstring <$(call args_of,$2) instead of ,<$(strip $(file <$1.args)) instead of )

# The stages that have to run, found out when the first of them is asked for, once all are declared.
STALE = $(eval STALE := $(shell pipelines/stale $(foreach s,$(STAGES),$s: $(inputs.$s)))\
	$(if $(filter 0,$(.SHELLSTATUS)),,$(error pipelines/stale failed)))$(STALE)
.SECONDEXPANSION:

# $(call stage,OUT,INPUTS,TOOLS,COMMAND). Other files that the command writes have no rule of their own (make 4.3
# does not tell the truth under -n about targets grouped with &:); whoever needs them depends on OUT.
define stage
STAGES += $1
inputs.$1 := $(if $(call made_by,$1,$4),,FORCE) $2
$(if $(strip $3),.PRECIOUS: $1)
$1: $$$$(if $$$$(filter $1,$$$$(STALE)),FORCE) | $2 $(if $(TOOLS_READY),,$(addprefix $(BUILD)/bin/,$3))
	@INPUTS='$(strip $2)' OMP_NUM_THREADS=$$(THREADS) pipelines/stage $1 $(strip $4)
$1: export ARGS = $(call args_of,$4)

endef

# ---- templates ------------------------------------------------------------------------------------------------

# $(call evaluate,D,NET,OUT,LABEL)
define evaluate
$(call stage,$3,$2 $(DATA)/$1/manifest.json,adveval,\
	adveval -d $(DATA)/$1/test.tfrecord --data-name $1 $($1_ATTACK) $($1_EVAL) --label $4 -o $3 $2)
endef

# $(call network,D,A)
define network
$(call stage,$(RUNS)/$1/$2/pretrain.nn,$(DATA)/$1/manifest.json,advtrain,\
	advtrain --stage pretrain --arch $2 -d $(DATA)/$1/rest.tfrecord $($1_ATTACK) $($1_TRAIN) $($1_PRETRAIN)\
	--seed $(SEED) --log $(RUNS)/$1/$2/pretrain.jsonl -o $(RUNS)/$1/$2/pretrain.nn)
$(call described,$1,$2)
endef

# $(call described,D,A): what is told of the dense network
define described
$(call stage,$(RUNS)/$1/$2/layers.json,$(RUNS)/$1/$2/pretrain.nn,nninfo,\
	nninfo --format json -o $(RUNS)/$1/$2/layers.json $(RUNS)/$1/$2/pretrain.nn)
$(call evaluate,$1,$(RUNS)/$1/$2/pretrain.nn,$(RUNS)/$1/$2/eval.json,dense)
endef

# What is declared already is not declared again: $(call once,OUT,DECLARATION).
once = $(if $(filter $1,$(STAGES)),,$(eval $2))

# $(call ruled,D,A,REG,RATE,RULE): keep-rates by a rule of maskapply; several may need them, the first declares them.
define ruled
$(if $(filter $(RUNS)/$1/$2/$3-$4/$5/strategy.json,$(STAGES)),,\
$(call stage,$(RUNS)/$1/$2/$3-$4/$5/strategy.json,$(RUNS)/$1/$2/pretrain.nn,maskapply,\
	maskapply -q --plan -r $3 -s $5:$4 --label $5 --strategy-out $(RUNS)/$1/$2/$3-$4/$5/strategy.json\
	-o /dev/null $(RUNS)/$1/$2/pretrain.nn))
endef

# $(call search,D,A,REG,RATE,N), whose warm-up begins with the rules of D_STARTS; and $(call random,...): as many
# strategies, all of them random.
search = $(call searched,$1,$2,$3,$4,search-$5,$($1_SEARCH) --seed $5,$($1_STARTS))
random = $(call searched,$1,$2,$3,$4,random-$5,$($1_RANDOM) --seed $5)
# $(call searched,D,A,REG,RATE,ID,OPTIONS,STARTS)
define searched
$(foreach i,$7,$(call ruled,$1,$2,$3,$4,$i))
$(call stage,$(RUNS)/$1/$2/$3-$4/$5/strategy.json,\
	$(RUNS)/$1/$2/pretrain.nn $(RUNS)/$1/$2/layers.json $(DATA)/$1/manifest.json\
	$(foreach i,$7,$(RUNS)/$1/$2/$3-$4/$i/strategy.json),ddpg-search adveval,\
	ddpg-search --layers $(RUNS)/$1/$2/layers.json --reg $3 --target $4 $6 --id $5\
	$(foreach i,$7,--start $(RUNS)/$1/$2/$3-$4/$i/strategy.json)\
	--evaluator 'adveval --serve -r $3 -d $(DATA)/$1/holdout.tfrecord $($1_ATTACK) $($1_REWARD)\
	$(RUNS)/$1/$2/pretrain.nn' --csv-dir $(RUNS)/$1/$2/$3-$4/$5\
	-o $(RUNS)/$1/$2/$3-$4/$5/strategy.json)
$(call stage,$(RUNS)/$1/$2/$3-$4/$5/best.nn,\
	$(RUNS)/$1/$2/pretrain.nn $(RUNS)/$1/$2/$3-$4/$5/strategy.json,maskapply,\
	maskapply -q -r $3 -s $(RUNS)/$1/$2/$3-$4/$5/strategy.json --target $4 --label $5\
	-o $(RUNS)/$1/$2/$3-$4/$5/best.nn $(RUNS)/$1/$2/pretrain.nn)
endef

# $(call pruned,D,A,REG,RATE,ID): search-N has its strategy from a search, the others from a rule of maskapply.
# With --target a strategy that exceeds the budget of the uniform RATE is refused.
define pruned
$(if $(filter search-% random-%,$5),,$(call ruled,$1,$2,$3,$4,$5))
$(call planned,$1,$2,$3,$4,$5,--target $4)
$(call hydra,$1,$(RUNS)/$1/$2/$3-$4/$5/planned.nn,$(RUNS)/$1/$2/$3-$4/$5/hydra/seed-$(SEED),$5)
endef

# $(call planned,D,A,REG,RATE,ID,OPTIONS)
define planned
$(call stage,$(RUNS)/$1/$2/$3-$4/$5/planned.nn,\
	$(RUNS)/$1/$2/pretrain.nn $(RUNS)/$1/$2/$3-$4/$5/strategy.json,maskapply,\
	maskapply --plan -r $3 -s $(RUNS)/$1/$2/$3-$4/$5/strategy.json $6 --label $5\
	-o $(RUNS)/$1/$2/$3-$4/$5/planned.nn $(RUNS)/$1/$2/pretrain.nn)
endef

# $(call hydra,D,PLANNED,DIR,LABEL,SEED)
define hydra
$(call stage,$3/prune.nn,$2 $(DATA)/$1/manifest.json,advtrain,\
	advtrain --stage prune -d $(DATA)/$1/rest.tfrecord $($1_ATTACK) $($1_TRAIN) $($1_PRUNE) --seed $(or $5,$(SEED))\
	--log $3/prune.jsonl -o $3/prune.nn $2)
$(call finetuned,$1,$3/prune.nn,$3,$4,$(or $5,$(SEED)),$($1_FINETUNE))
endef

# $(call finetuned,D,PRUNED,DIR,LABEL,SEED,OPTIONS): what is left is trained, and attacked
define finetuned
$(call stage,$3/finetune.nn,$2 $(DATA)/$1/manifest.json,advtrain,\
	advtrain --stage finetune -d $(DATA)/$1/rest.tfrecord $($1_ATTACK) $($1_TRAIN) $6 --seed $5\
	--log $3/finetune.jsonl -o $3/finetune.nn $2)
$(call evaluate,$1,$3/finetune.nn,$3/eval.json,$4)
endef

# $(call compare,NAME,D,A,REG,RATE,IDS): the table and the plot of several strategies at one budget, in
# runs/NAME; and a PDF of the plot where pdflatex is installed.
# Where what the figures need is installed: Debian's texlive-latex-extra and texlive-pictures.
PDFLATEX := $(and $(shell kpsewhich standalone.cls 2>/dev/null),$(shell kpsewhich pgfplots.sty 2>/dev/null),$(shell \
	command -v pdflatex))
define compare
$(call stage,$(RUNS)/$1/table.txt,\
	$(RUNS)/$2/$3/eval.json $(foreach id,$6,$(RUNS)/$2/$3/$4-$5/$(id)/hydra/seed-$(SEED)/eval.json),summarize,\
	summarize --csv $(RUNS)/$1/table.csv --latex $(RUNS)/$1/table.tex -o $(RUNS)/$1/table.txt\
	$(RUNS)/$2/$3/eval.json $(foreach id,$6,$(RUNS)/$2/$3/$4-$5/$(id)/hydra/seed-$(SEED)/eval.json))
$(call stage,$(RUNS)/$1/strategies.svg,\
	$(foreach id,$6,$(RUNS)/$2/$3/$4-$5/$(id)/strategy.json),stgplot,\
	stgplot -o $(RUNS)/$1/strategies $(foreach id,$6,$(RUNS)/$2/$3/$4-$5/$(id)/strategy.json))
$(if $(PDFLATEX),$(call stage,$(RUNS)/$1/strategies.pdf,$(RUNS)/$1/strategies.svg,,\
	$(PDFLATEX) -interaction=batchmode -output-directory=$(RUNS)/$1 $(RUNS)/$1/strategies.tex))
endef

# ---- what there is ----------------------------------------------------------------------------------------------

status: ## which stages are done, stale, interrupted, failed, running, missing, and their logs
	@for stage in $(STAGES); do \
		case ' $(STALE) ' in *" $$stage "*) state=$$(pipelines/status $$stage);; *) state=done;; esac; \
		log=; [ $$state = done ] || [ ! -e $$stage.log ] || log="  (log: $$stage.log)"; \
		printf '%-11s %s%s\n' "$$state" "$$stage" "$$log"; done

# Published raw sheets to compare with (summarize --published), if any; logs of the published programs (--legacy).
PUBLISHED ?=
LEGACY ?=
COMPARE = summarize --compare -a published $(if $(PUBLISHED),--published '$(PUBLISHED)') $(if $(LEGACY),--legacy '$(LEGACY)')

tables: all ## one table per data set and network, and the paper's tables, of all results there are
	@set -e; some=; for net in $(RUNS)/*/*/pretrain.nn; do \
		[ -e "$$net" ] || break; \
		dir=$${net%/pretrain.nn}; \
		find "$$dir" -name eval.json | LC_ALL=C sort | xargs -r summarize --csv "$$dir/table.csv" \
			--latex "$$dir/table.tex" --xlsx "$$dir/table.xlsx" -o "$$dir/table.txt"; \
		if [ -e "$$dir/table.txt" ]; then some=yes; echo "$$dir/table.{txt,csv,tex,xlsx}"; cat "$$dir/table.txt"; fi; \
	done; \
	if [ "$$some$(LEGACY)" ]; then mkdir -p '$(RUNS)'; \
		ls -d $(RUNS)/*/*/*-*/*/*/seed-*/eval.json 2>/dev/null | LC_ALL=C sort | xargs $(if $(LEGACY),,-r) $(COMPARE) --csv $(RUNS)/compare.csv \
			--latex $(RUNS)/compare.tex --xlsx $(RUNS)/compare.xlsx -o $(RUNS)/compare.txt; \
		[ ! -e $(RUNS)/compare.txt ] || { echo "$(RUNS)/compare.{txt,csv,tex,xlsx}"; cat $(RUNS)/compare.txt; }; \
	else echo "no results under $(RUNS) yet" >&2; fi

plots: all ## one plot per data set, network and budget, of all strategies there are
	@set -e; for dir in $(RUNS)/*/*/*-*/; do \
		[ -d "$$dir" ] || { echo "no strategies under $(RUNS) yet" >&2; break; }; \
		find "$$dir" -name strategy.json | LC_ALL=C sort | xargs -r stgplot -o "$${dir}strategies"; \
		[ ! -e "$${dir}strategies.svg" ] || echo "$${dir}strategies.{csv,tex,svg}"; done

STRATEGIES ?= strategies
publish-strategies: all ## add the searched strategies to strategies/DATA.json, named after their budgets: 01_0
	@set -e; export LC_ALL=C; mkdir -p '$(STRATEGIES)'; for dir in $(RUNS)/*/; do data=$$(basename "$$dir"); \
		set -- "$$dir"*/*/search-*/strategy.json; [ -e "$$1" ] || continue; \
		flock '$(STRATEGIES)' ddpg-search --publish '$(STRATEGIES)'/"$$data".json "$$@"; \
		echo "$$# strategies: $(STRATEGIES)/$$data.json"; done

verify: all ## check all digests: of stages' inputs, and of what the products' histories name
	@set -e; changed=$$(EVERY=yes pipelines/stale $(foreach s,$(STAGES),$s: $(inputs.$s))); \
	for stage in $$changed; do echo "$$stage: was made from other inputs than those that are there"; done; \
	set --; for dir in $(RUNS) $(DATA)/*/; do [ ! -d "$$dir" ] || set -- "$$@" "$$dir"; done; \
	[ "$$#" -gt 0 ] || { echo "nothing under $(RUNS) and $(DATA) yet" >&2; exit; }; \
	summarize --verify "$$@"; [ -z "$$changed" ]

.PHONY: status tables plots verify publish-strategies
