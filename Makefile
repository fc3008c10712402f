.PHONY: example test check bench docs

example:  ## set up and run an example
	scripts/example

test:  ## set up and pass the tests
	scripts/test

check:  ## style, types, imports, generated references
	scripts/check

bench:  ## the table of figures
	.venv/bin/python -m benchmarks

docs:  ## write the generated references anew
	.venv/bin/python docs/generate.py
