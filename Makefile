# HERACLES: adversarially robust pruning with learned per-layer strategies.
#
#   make            build the tools into build/bin
#   make demo       install what is missing, build, run the whole pipeline on Fashion-MNIST
#   make test       install what the tests need, build, run every test
#   make help       all targets
#
# First how to build, then the targets for people, then the experiments (pipelines/*.mk).
# Local settings (CC, BUILD, RUNS, DATA, THREADS) go in config.mk, which is not committed.
-include config.mk

# Non-empty when two strings are equal. (make 4.3 leaves some newlines at the end of what $(file <NAME) reads.)
same = $(and $(findstring <$(strip $1)>,<$(strip $2)>),$(findstring <$(strip $2)>,<$(strip $1)>))

BUILD ?= build
DEMO_SIZE ?= full
RUNS ?= $(if $(filter tiny,$(DEMO_SIZE)),runs/tiny,runs)
DATA ?= data
# Waiting threads sleep instead of spinning: where other processes want the cores too (make -j, tests side by side),
# spinning at every layer's barrier makes two threads ten times slower than one.
export OMP_WAIT_POLICY ?= passive
CC := $(if $(filter default,$(origin CC)),gcc,$(CC))
CFLAGS ?= -O2 -g
MACHINE := $(shell uname -m)
BASELINE := $(if $(filter x86_64,$(MACHINE)),-march=x86-64-v2)
WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Werror
FLAGS = -std=gnu11 -D_GNU_SOURCE $(WARNINGS) -Ilib $(BASELINE) -fopenmp $(PKG_CFLAGS) $(CFLAGS)
ALL_CFLAGS = $(FLAGS) -I$(BUILD)/gen
# The serial build starts no threads of its own, and is NOT safe to call from two threads at once (it hands both
# the same work buffer): one thread at a time, as in lib/search. Kernels inside parallel loops are our own.
OPENBLAS_DIR := /usr/lib/$(MACHINE)-linux-gnu/openblas-serial
PKG_CFLAGS := -I/usr/include/$(MACHINE)-linux-gnu/openblas-serial
# A tool loads the libraries that it calls, and no others: libmatio alone brings forty along.
LDLIBS = -Wl,--as-needed -lmatio -lmsgpackc -larchive -ljpeg -lpng -ljansson -lxlsxwriter -lprotobuf-c -lisal -lcrypto -L$(OPENBLAS_DIR) -Wl,-rpath,$(OPENBLAS_DIR) -lopenblas -fopenmp -ldl -lm

LIB_SRC := $(wildcard lib/*/*.c lib/*/*/*.c)
KERNEL_SRC := lib/compute/cpu/kernels.c lib/compute/cpu/tiles.c
LIB_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(filter-out $(KERNEL_SRC),$(LIB_SRC))) $(BUILD)/gen/example.pb-c.o
# The kernels are compiled once per instruction set; isa.c chooses among them at run time.
ISAS := $(if $(filter x86_64,$(MACHINE)),v2 v3 v4,portable)
LIB_OBJ += $(foreach isa,$(ISAS),$(KERNEL_SRC:%.c=$(BUILD)/%-$(isa).o))
TOOLS := $(patsubst tools/%.c,$(BUILD)/bin/%,$(wildcard tools/*.c))
UNITS := $(patsubst test/unit/%.c,$(BUILD)/test/%,$(wildcard test/unit/test_*.c))
BENCHES := $(patsubst test/bench/%.c,$(BUILD)/bench/%,$(wildcard test/bench/*.c))
PEERS := $(patsubst test/peers/%.c,$(BUILD)/test/%,$(wildcard test/peers/*.c))
FUZZERS := $(patsubst test/fuzz/%.c,$(BUILD)/fuzz/%,$(filter-out test/fuzz/fuzz.c,$(wildcard test/fuzz/*.c)))

# One line per command, or the commands themselves with V=1.
say = $(if $(V),,@printf '  %-6s %s\n' $1 $@;)

all: $(TOOLS) ## build the tools into build/bin (the default)

# What tests need. Fuzz targets are only compiled here: a changed interface shows at once, not with the next `make fuzz`.
units: $(UNITS) $(PEERS) $(BENCHES) $(SHIM) $(FUZZERS:$(BUILD)/fuzz/%=$(BUILD)/test/fuzz/%.o)

$(BUILD)/bin/%: $(BUILD)/tools/%.o $(BUILD)/libheracles.a
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(CFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@

$(BUILD)/test/%: $(BUILD)/test/unit/%.o $(BUILD)/libheracles.a
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(CFLAGS) $(LDFLAGS) $^ $(LDLIBS) -lcmocka -o $@

$(BUILD)/test/%: $(BUILD)/test/peers/%.o $(BUILD)/libheracles.a
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(CFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@

$(BUILD)/bench/%: $(BUILD)/test/bench/%.o $(BUILD)/libheracles.a
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(CFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@

# Only test/fuzz/run builds these, with clang and the flags that it needs.
$(FUZZERS): $(BUILD)/fuzz/%: $(BUILD)/test/fuzz/%.o $(BUILD)/test/fuzz/fuzz.o $(BUILD)/libheracles.a
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(CFLAGS) -fsanitize=fuzzer $(LDFLAGS) $^ $(LDLIBS) -o $@

$(BUILD)/libheracles.a: $(LIB_OBJ)
	$(call say,AR)rm -f $@ && $(AR) rcs $@ $^

# ---- the CUDA plug-in: heracles-cuda.so beside the tools, where nvcc is found; CUDA=0 leaves it out, CUDA=1 insists.
# Code for each compute capability from 7.5 to 12.0 that nvcc 13 knows, and PTX for those that come later. -fmad=false:
# products and sums are rounded one by one, as on the CPU; the kernels are bound by memory, not by these.
NVCC ?= $(or $(shell command -v nvcc),$(wildcard /usr/local/cuda/bin/nvcc),nvcc)
CUDA ?= $(if $(and $(shell command -v $(NVCC)),$(wildcard $(CUDA_HOME)/include/cudnn.h)),1,0)
CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(realpath $(shell command -v $(NVCC))))
CUDA_ARCHS := 75 80 86 87 88 89 90 100 103 110 120
CUDA_SRC := $(wildcard lib/compute/cuda/*.cu)
CUDA_OBJ := $(CUDA_SRC:%.cu=$(BUILD)/%.o)
# (-Wno-deprecated-declarations: cuDNN 9 calls its choice of algorithms by shape deprecated and has no other for it.)
NVCC_FLAGS := -std=c++17 -O3 -fmad=false -Werror all-warnings -Xcompiler -fPIC,-Wall,-Wextra,-fvisibility=hidden \
	$(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$a,code=sm_$a) \
	-gencode arch=compute_$(lastword $(CUDA_ARCHS)),code=compute_$(lastword $(CUDA_ARCHS))
PLUGIN := $(if $(filter 1,$(CUDA)),$(BUILD)/bin/heracles-cuda.so)
all: $(PLUGIN)

$(CUDA_OBJ): $(BUILD)/%.o: %.cu $(wildcard lib/compute/cuda/*.h) $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,NVCC)$(NVCC) $(NVCC_FLAGS) -Ilib/compute/cuda -c $< -o $@

$(BUILD)/bin/heracles-cuda.so: $(CUDA_OBJ)
	@mkdir -p $(@D)
	$(call say,LINK)$(NVCC) -shared -cudart shared $^ -lcudnn -lcublas -Xlinker -rpath,$(CUDA_HOME)/lib64 -o $@

# The same sources against test/shim, which runs them on the CPU.
SHIM := $(BUILD)/test/heracles-cuda-shim.so
SHIM_FLAGS = -Wall -Wextra -Werror -Wno-unused-function -fPIC -fvisibility=hidden -Itest/shim -Ilib/compute/cuda -Ilib $(CFLAGS)
SHIM_OBJ := $(patsubst %,$(BUILD)/shim/%.o,$(filter-out %/vendor.cu,$(CUDA_SRC)) test/shim/shim.cpp test/shim/vendor.c \
	lib/compute/ref/ops.c)
CXX := $(if $(filter default,$(origin CXX)),g++,$(CXX))

$(BUILD)/shim/%.c.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,CC)$(CC) -std=gnu11 -D_GNU_SOURCE -fopenmp $(SHIM_FLAGS) -MMD -MP -c $< -o $@

$(BUILD)/shim/%.o: % $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,CXX)$(CXX) -std=c++17 -x c++ -ffp-contract=off $(SHIM_FLAGS) -MMD -MP -c $< -o $@

# They open it.
$(patsubst %,$(BUILD)/test/%,test_cuda test_cuda_attack test_cuda_ops test_cuda_strong test_cuda_train \
	test_cuda_zoo): | $(SHIM)

$(SHIM): $(SHIM_OBJ)
	@mkdir -p $(@D)
	$(call say,LINK)$(CXX) $(CFLAGS) $(LDFLAGS) -shared -fopenmp $^ -o $@

define kernel_rule
$(BUILD)/lib/compute/cpu/%-$1.o: lib/compute/cpu/%.c $(BUILD)/flags
	@mkdir -p $$(@D)
	$$(call say,CC)$$(CC) $$(ALL_CFLAGS) -O3 $(if $(filter v%,$1),-march=x86-64-$1) -DHR_ISA='"$1"' -DHR_TABLE=hr_kernels_$1 \
		-DHR_WINO=hr_wino_$1 -MMD -MP -c $$< -o $$@
endef
$(foreach isa,$(ISAS),$(eval $(call kernel_rule,$(isa))))

# Loops over parameters and pixels become vectors, square roots included, and wait for several cache lines at a time; the
# bits stay the same.
$(patsubst %,$(BUILD)/lib/%.o,search/mlp prune/mask train/optim train/hydra train/admm train/stage attack/apgd attack/fab \
	attack/pack): ALL_CFLAGS += -O3 -funroll-loops -fno-math-errno -fno-trapping-math

$(BUILD)/gen/%.pb-c.c $(BUILD)/gen/%.pb-c.h: lib/data/%.proto
	@mkdir -p $(@D)
	$(call say,PROTO)protoc-c --proto_path=lib/data --c_out=$(BUILD)/gen $<

$(BUILD)/gen/%.o: $(BUILD)/gen/%.c $(BUILD)/flags
	$(call say,CC)$(CC) $(ALL_CFLAGS) -c $< -o $@

$(BUILD)/%.o: %.c $(BUILD)/flags | $(BUILD)/gen/example.pb-c.h
	@mkdir -p $(@D)
	$(call say,CC)$(CC) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

# Remade only when the flags differ, so that new flags rebuild everything. A compiler's complaint about a
# missing header comes after the line that names the missing packages, every time until they are there.
$(BUILD)/flags: $(if $(call same,$(file <$(BUILD)/flags),$(CC) $(FLAGS)),,FORCE)
	@mkdir -p $(@D)
	@if pipelines/packages check $(DEPS_BUILD); then echo '$(CC) $(FLAGS)' >$@; fi

# The compiler writes these beside the objects; without the empty rule make would try to build them.
$(BUILD)/%.d: ;
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

# ---- dependencies: Debian 12 packages -----------------------------------------------------------------------
DEPS_BUILD := gcc libc6-dev make libopenblas-serial-dev libmsgpack-dev libarchive-dev \
	libjpeg62-turbo-dev libpng-dev libjansson-dev libxlsxwriter-dev \
	libprotobuf-c-dev protobuf-c-compiler libisal-dev libssl-dev librandom123-dev libmatio-dev
DEPS := $(DEPS_BUILD) dataset-fashion-mnist curl
DEPS_FUZZ := clang libclang-rt-dev libomp-dev llvm
DEPS_TEST := g++ bats bats-support bats-assert bats-file libcmocka-dev python3-torch python3-numpy python3-msgpack \
	python3-protobuf python3-scipy python3-pil procps $(DEPS_FUZZ)
DEPS_LONG := valgrind cppcheck clang-format python3-venv

deps: ## install the Debian packages that building and the demo need
	@pipelines/packages install $(DEPS)

deps-test: deps ## install those that the tests need
	@pipelines/packages install $(DEPS_TEST)

deps-long: deps-test ## install those that check-long and lint need
	@pipelines/packages install $(DEPS_LONG)

# ---- targets for people -----------------------------------------------------------------------------------------
PREFIX ?= /usr/local

help: ## this list
	@awk -F ':[^#]*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: deps-test ## install what the tests need, build, run every test
	@BUILD='$(BUILD)' test/run

check-long: deps-long ## unit tests under valgrind, kills at random, fuzzers for ten minutes each (slow)
	@BUILD='$(BUILD)' test/long/check

FUZZ_SECONDS ?= 60
fuzz: ## run the fuzz targets FUZZ=nn|idx|... (all) for FUZZ_SECONDS each, with clang
	@test/fuzz/run $(FUZZ_SECONDS) $(FUZZ)

mutants: deps-test ## put every fault of test/mutants/list in, one at a time: its test must fail
	@test/mutants/run

check-gpu: all units ## on a machine with a GPU: the plug-in against the oracle and the CPU, speed beside PyTorch
	@BUILD='$(BUILD)' test/gpu/check

NET ?= resS
bench: $(BENCHES) ## the engine on NET=resS|resnet18|... beside PyTorch; tfrecords, .nn files, saved state
	@BUILD='$(BUILD)' test/bench/run $(NET)

lint: ## formatting (clang-format) and static checks (cppcheck)
	@clang-format --dry-run -Werror $(wildcard lib/*/*.[ch] lib/*/*/*.[ch] tools/*.c test/unit/*.[ch] test/peers/*.c test/bench/*.c test/fuzz/*.[ch])
	@cppcheck -q --enable=warning,performance,portability --inline-suppr --error-exitcode=1 -j2 -Ilib \
		--suppress=missingIncludeSystem -DHR_ISA='"v2"' -DHR_TABLE=hr_kernels_v2 -DHR_WINO=hr_wino_v2 '-Djson_object_foreach(o,k,v)=for(;;)' \
		'-Djson_array_foreach(a,i,v)=for(;;)' lib tools

install: all ## install the tools into $(PREFIX)/bin
	install -d '$(DESTDIR)$(PREFIX)/bin'
	install $(TOOLS) '$(DESTDIR)$(PREFIX)/bin'
ifneq ($(PLUGIN),)
	install -D -t '$(DESTDIR)$(PREFIX)/lib/heracles' $(PLUGIN)
endif

clean: ## remove what was built; runs/ and data/ stay
	rm -rf '$(BUILD)' build-asan build-fuzz build-mutants

include pipelines/rules.mk pipelines/data.mk pipelines/models.mk pipelines/fashion-mnist.mk pipelines/demo.mk pipelines/study.mk pipelines/published.mk pipelines/fmnist.mk

.PHONY: all units FORCE deps deps-test deps-long help test check-long check-gpu fuzz mutants bench lint install clean
# Objects are kept; a product of an experiment that was removed is made again.
.SECONDARY: $(patsubst %.c,$(BUILD)/%.o,$(wildcard tools/*.c test/unit/*.c test/peers/*.c test/bench/*.c test/fuzz/*.c)) \
	$(BUILD)/gen/example.pb-c.c
.DELETE_ON_ERROR:
