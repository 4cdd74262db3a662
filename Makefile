# What a person does here. Everything but `make gpu` runs in an environment of its own under this folder.
PYTHON ?= python3
OLDEST := torch==2.11.0 torchvision==0.26.0
NEWEST := torch==2.14.1 torchvision==0.29.1

.PHONY: demo test test-oldest test-newest gpu lint docs dist clean

demo: .venv/done
	.venv/bin/python examples/train_digits.py

test: .venv/done
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Both ends of the range in pyproject.toml; triton 3.6 comes with the oldest torch, triton 3.8 with the newest.
test-oldest test-newest: test-%: .venv-%/done
	.venv-$*/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# What only a GPU can show, with the dependencies of $(PYTHON). PART=… names parts, TIME=… is the seconds for all.
gpu:
	$(PYTHON) -m benchmarks.on_gpu $(PART) $(if $(TIME),--seconds $(TIME))

lint: .venv/done
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache --no-logo

# The guides and the API reference; begin at build/docs/index.html.
docs: .venv/done
	.venv/bin/python .ci/docs.py build/docs

# What is released: each file is installed into an environment that holds nothing else, and tried there.
dist: .venv/done
	rm -rf dist build/empty
	.venv/bin/python -m build --outdir dist
	for file in dist/*; do \
		$(PYTHON) -m venv --clear build/empty && build/empty/bin/python -m pip install -q "$$file" && \
		build/empty/bin/python -I tests/smoke.py || exit 1; \
	done

.venv/done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q -c constraints.txt -e '.[test,lint,docs]'
	touch $@

.venv-oldest/done: TORCH = $(OLDEST)
.venv-newest/done: TORCH = $(NEWEST)
.venv-oldest/done .venv-newest/done: .venv-%/done: pyproject.toml
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install -q $(TORCH) -e '.[test]'
	touch $@

clean:
	rm -rf .venv .venv-oldest .venv-newest build dist *.egg-info
