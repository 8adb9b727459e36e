# pipelines/study.mk -- does the search find better strategies than rules and chance do, at the same budget?
#
#   make study                            all rows, then the table; interrupted, it goes on where it stopped
#   make study STUDY_BUDGETS=weight-0.1 STUDY_SEEDS='1 2'
#   make study-table                      the table of what there is
#
# For every budget (weight or channel, and the uniform keep-rate that it means) and every seed: a search, a random
# search with as many evaluations, and the rules. Every strategy is pruned, finetuned and attacked as in the demo
# (rules.mk; HYDRA's seeds are the study's), and finetuned once more, longer (hydra/long-S). Budgets are verified where
# rates are written (maskapply --target). Only `make study...` declares these stages: make status and the demo know
# nothing of them.
STUDY_SEEDS ?= 0 1 2
STUDY_BUDGETS ?= weight-0.1 weight-0.03 weight-0.01 channel-0.5 channel-0.1
STUDY_RULES ?= uniform uniform+ erk lamp global
# With a search and a random search of each seed.
STUDY_SEARCHES ?= search random
# How long each pruned network is finetuned.
STUDY_LENGTHS ?= short long

ifneq ($(filter study%,$(MAKECMDGOALS)),)
study_dir = $(RUNS)/FashionMNIST/resS
# $(call study_row,REG,RATE,ID,SEED): one strategy, finetuned short and long
define study_row
$(if $(filter search-% random-%,$3),$(call once,$(study_dir)/$1-$2/$3/strategy.json,\
	$(call $(firstword $(subst -, ,$3)),FashionMNIST,resS,$1,$2,$4)))
$(call once,$(study_dir)/$1-$2/$3/planned.nn,$(call pruned,FashionMNIST,resS,$1,$2,$3))
$(call once,$(study_dir)/$1-$2/$3/hydra/seed-$4/prune.nn,\
	$(call hydra,FashionMNIST,$(study_dir)/$1-$2/$3/planned.nn,$(study_dir)/$1-$2/$3/hydra/seed-$4,$3,$4))
$(call once,$(study_dir)/$1-$2/$3/hydra/long-$4/finetune.nn,\
	$(call finetuned,FashionMNIST,$(study_dir)/$1-$2/$3/hydra/seed-$4/prune.nn,$(study_dir)/$1-$2/$3/hydra/long-$4,$3,$4,$(FashionMNIST_FINETUNE_LONG)))
$(eval STUDY_RECORDS += $(foreach l,$(STUDY_LENGTHS),$(study_dir)/$1-$2/$3/hydra/$(l:short=seed)-$4/eval.json))
endef
$(foreach b,$(STUDY_BUDGETS),$(foreach s,$(STUDY_SEEDS),$(foreach id,$(STUDY_RULES) $(addsuffix -$s,$(STUDY_SEARCHES)),\
	$(call study_row,$(firstword $(subst -, ,$b)),$(lastword $(subst -, ,$b)),$(id),$s))))

study-stages: $(STUDY_RECORDS) $(study_dir)/eval.json

study: deps ## search against rules and chance on Fashion-MNIST: every budget and seed, mean and deviation (hours)
	@$(MAKE) --no-print-directory all
	@$(MAKE) --no-print-directory study-stages
	@$(MAKE) --no-print-directory study-table

study-table: all
	@mkdir -p $(RUNS)/study && pipelines/study-table $(study_dir) $(STUDY_BUDGETS) >$(RUNS)/study/.table.txt && \
		mv $(RUNS)/study/.table.txt $(RUNS)/study/table.txt && cat $(RUNS)/study/table.txt
else
study: ## search against rules and chance on Fashion-MNIST: every budget and seed, mean and deviation (hours)
endif
.PHONY: study study-stages study-table
