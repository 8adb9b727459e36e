# pipelines/fmnist.mk -- the experiment at full size: every image of Fashion-MNIST, the published numbers of epochs and
# episodes, five searches per budget. Days on two cores; interrupted, it goes on where it stopped, so it is a matter of
# some nights:
#
#   make fmnist                           results in runs/fmnist
#   make fmnist FMNIST_BUDGETS=weight-0.1 FMNIST_SEARCHES='0 1'
#   make -n fmnist                        what is still to be done
#   make fmnist FMNIST_SIZE=tiny          every rule in seconds, learning nothing (also runs/fmnist: give RUNS)
#
# The stages are those of the demo (rules.mk) with other sizes (fashion-mnist.mk).
FMNIST_BUDGETS ?= weight-0.1 weight-0.01 channel-0.5 channel-0.1
FMNIST_SEARCHES ?= 0 1 2 3 4
FMNIST_RULES ?= uniform uniform+ erk lamp global
FMNIST_SIZE ?= night

ifneq ($(filter fmnist-stages,$(MAKECMDGOALS)),)
fmnist_dir = $(RUNS)/FashionMNIST/resS
fmnist_ids = $(addprefix search-,$(FMNIST_SEARCHES)) $(FMNIST_RULES)
# $(call fmnist_budget,REG,RATE): all strategies, their table and figure
define fmnist_budget
$(foreach n,$(FMNIST_SEARCHES),$(call once,$(fmnist_dir)/$1-$2/search-$n/strategy.json,\
	$(call search,FashionMNIST,resS,$1,$2,$n)))
$(foreach id,$(fmnist_ids),$(call once,$(fmnist_dir)/$1-$2/$(id)/planned.nn,\
	$(call pruned,FashionMNIST,resS,$1,$2,$(id))))
$(eval $(call compare,$1-$2,FashionMNIST,resS,$1,$2,$(fmnist_ids)))
endef
$(foreach b,$(FMNIST_BUDGETS),$(call fmnist_budget,$(firstword $(subst -, ,$b)),$(lastword $(subst -, ,$b))))

fmnist-stages: $(foreach b,$(FMNIST_BUDGETS),$(RUNS)/$b/table.txt $(RUNS)/$b/strategies.svg\
	$(if $(PDFLATEX),$(RUNS)/$b/strategies.pdf))
	@cat $(foreach b,$(FMNIST_BUDGETS),$(RUNS)/$b/table.txt)
endif

fmnist: deps ## the experiment with all images and five searches per budget, over some nights
	@$(MAKE) --no-print-directory all
	@$(MAKE) --no-print-directory DEMO_SIZE=$(FMNIST_SIZE) RUNS='$(RUNS)/fmnist' fmnist-stages
.PHONY: fmnist fmnist-stages
