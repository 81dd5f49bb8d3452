# Each target works as the first command after a clone: .ci/bootstrap makes .venv and gets FFmpeg.
# PYTHON=python3.12 chooses the Python of a new .venv; ARGS="-k sampling" goes to pytest.
PYTHON_IN_VENV = .venv/bin/python
ARGS =
# One process a core, which has one thread of its own: threads of torch that wait for each other
# stand still on a busy machine. Each process holds torch, so there are not more than eight.
PYTEST = OMP_NUM_THREADS=1 $(PYTHON_IN_VENV) -m pytest -n logical --maxprocesses 8 --dist worksteal

.PHONY: help install demo test test-slow torture lint bench bench-reading bench-archives bench-evaluation bench-gpu test-versions test-loops wheel-test docs clean

help:
	@echo "make demo           encode a few real clips, assemble, verify and load them back"
	@echo "make test           the tests, but for the slow ones: 3 minutes"
	@echo "make test-slow      the slow ones: damage and death by the hundred, 11 minutes"
	@echo "make torture        the tests of damage and death alone, at full count: about an hour"
	@echo "make lint           ruff, who may import whom, mypy --strict"
	@echo "make bench          how fast building is: the measurements that the documents quote"
	@echo "make bench-reading  how fast reading is, also at full size: 8.5 GB of disk, 8 minutes"
	@echo "make bench-archives how fast archives are streamed, stage by stage"
	@echo "make test-versions  a dataset on disk and on a Hub, in four versions of datasets and the oldest libraries"
	@echo "make bench-evaluation zero-shot, probes and search at full size: 8.5 GB of disk, 8 GB of memory"
	@echo "make bench-gpu      everything a GPU machine can tell, in one call: 7 minutes; ARGS=--cpu tries it"
	@echo "make test-loops     the training loops of other libraries, one process and two: 7 minutes"
	@echo "make wheel-test     the built wheel in a fresh environment"
	@echo "make docs           the documents as a site, in site/, with every link checked"
	@echo "make install        only the environment, in .venv"
	@echo "make clean          remove what the targets made, .venv included"

install:
	@sh .ci/bootstrap

demo:
	@sh .ci/bootstrap demo
	@$(PYTHON_IN_VENV) -m clip_kinetics700_builder.demo

test: install
	@$(PYTEST) -m "not slow" $(ARGS)

test-slow: install
	@$(PYTEST) -m slow $(ARGS)

torture: install
	@CLIP_KINETICS700_TORTURE=full $(PYTEST) -m torture -o faulthandler_timeout=3600 $(ARGS)

lint: install
	@$(PYTHON_IN_VENV) -m ruff check .
	@$(PYTHON_IN_VENV) -m ruff format --check .
	@.venv/bin/lint-imports
	@$(PYTHON_IN_VENV) -m mypy --strict

bench: install
	@$(PYTHON_IN_VENV) -m benchmarks.bench

bench-reading: install
	@$(PYTHON_IN_VENV) -m benchmarks.reading
	@$(PYTHON_IN_VENV) -m benchmarks.full_size

bench-archives: install
	@$(PYTHON_IN_VENV) -m benchmarks.archives

bench-evaluation: install
	@$(PYTHON_IN_VENV) -m benchmarks.evaluation

bench-gpu: install
	@$(PYTHON_IN_VENV) -m benchmarks.gpu.check $(ARGS)

test-versions: install
	@$(PYTHON_IN_VENV) tests/versions/run.py

test-loops: install
	@$(PYTHON_IN_VENV) tests/loops/run.py

wheel-test: install
	@bash .ci/wheel-test

docs: install
	@$(PYTHON_IN_VENV) -m pip install --quiet -c constraints.txt -e '.[docs]'
	@.venv/bin/zensical build --clean --strict

clean:
	rm -rf .venv .venvs dist build demo_output site .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
