# What a person does here. Everything runs in an environment of its own under this folder.
PYTHON ?= python3
OLDEST := torch==2.11.0 torchvision==0.26.0

.PHONY: demo test test-oldest lint clean

demo: .venv/done
	.venv/bin/python examples/train_digits.py

test: .venv/done
	.venv/bin/python -m pytest -n 2 --dist loadfile

# The lower end of the range in pyproject.toml; triton 3.6 comes with that torch.
test-oldest: .venv-oldest/done
	.venv-oldest/bin/python -m pytest -n 2 --dist loadfile

lint: .venv/done
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

.venv/done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q -c constraints.txt -e '.[test,lint]'
	touch $@

.venv-oldest/done: pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install -q $(OLDEST) -e '.[test]'
	touch $@

clean:
	rm -rf .venv .venv-oldest build dist *.egg-info
