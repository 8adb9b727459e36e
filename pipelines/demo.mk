# pipelines/demo.mk -- the demo: one robust network on Fashion-MNIST, pruned with a searched strategy and with
# three rules at the same budget.
#
#   make demo                 a tenth of the weights
#   make demo DEMO=channel    channels, the budget of the uniform keep-rate 0.5
#   make demo DEMO_IDS='uniform search-0 search-1 erk lamp'
#                             a second search, with seed 1
#   make demo DEMO_SIZE=tiny  every rule in seconds, learning nothing (results in runs/tiny)
DEMO ?= weight
demo_rate.weight := 0.1
demo_rate.channel := 0.5
DEMO_RATE := $(demo_rate.$(DEMO))
DEMO_IDS ?= uniform search-0 erk lamp
$(if $(DEMO_RATE),,$(error DEMO is '$(DEMO)': weight or channel is needed))
$(if $(filter-out full tiny night,$(DEMO_SIZE)),$(error DEMO_SIZE is '$(DEMO_SIZE)': full or tiny is needed))

$(eval $(call network,FashionMNIST,resS))
$(foreach reg,weight channel,\
	$(foreach id,$(filter search-%,$(DEMO_IDS)),\
		$(eval $(call search,FashionMNIST,resS,$(reg),$(demo_rate.$(reg)),$(id:search-%=%))))\
	$(foreach id,$(DEMO_IDS),$(eval $(call pruned,FashionMNIST,resS,$(reg),$(demo_rate.$(reg)),$(id))))\
	$(eval $(call compare,demo/$(reg),FashionMNIST,resS,$(reg),$(demo_rate.$(reg)),$(DEMO_IDS))))

DEMO_DIR := $(RUNS)/demo/$(DEMO)
DEMO_PRODUCTS := $(DEMO_DIR)/table.txt $(DEMO_DIR)/strategies.svg \
	$(patsubst %,$(RUNS)/FashionMNIST/resS/$(DEMO)-$(DEMO_RATE)/%/best.nn,$(filter search-%,$(DEMO_IDS))) \
	$(if $(PDFLATEX),$(DEMO_DIR)/strategies.pdf)
demo-stages: $(DEMO_PRODUCTS)

demo: deps ## the whole pipeline on Fashion-MNIST (DEMO=channel: channel pruning)
	@mkdir -p $(DEMO_DIR) && date +%s >$(DEMO_DIR)/.started
	@$(MAKE) --no-print-directory all
	@$(MAKE) --no-print-directory demo-stages
	@echo; cat $(DEMO_DIR)/table.txt
	@echo; echo "table: $(DEMO_DIR)/table.{txt,csv,tex}   plot: $(wildcard $(DEMO_DIR)/strategies.pdf) $(DEMO_DIR)/strategies.svg"
	@s=$$(($$(date +%s) - $$(cat $(DEMO_DIR)/.started))); echo "this run took $$((s / 60)) min $$((s % 60)) s"

.PHONY: demo demo-stages
