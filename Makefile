# make demo | test | lint | bench | clean. The virtual environment is made on first use.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench clean install

demo: $(READY)
	$(BIN)/python -m mss_perception.demo --out runs/demo

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .

bench: $(READY)
	$(BIN)/python -m benchmarks

install: $(READY)

$(READY): setup.py constraints.txt
	bash .ci/system_libraries $(PYTHON)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[ros,train,tensorboard,onnx,muses,dev]"
	touch $@

clean:
	rm -rf $(VENV) runs/demo build dist *.egg-info ros2_ws/build ros2_ws/install ros2_ws/log
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
