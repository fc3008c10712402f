.PHONY: example test check bench chaos docs

example:  ## set up and run an example
	scripts/example

test:  ## set up and pass the tests
	scripts/test

check:  ## style, types, imports, generated references
	scripts/check

bench:  ## the table of figures
	.venv/bin/python -m benchmarks

chaos:  ## clients at work while parts die, for MINUTES=5 or as many as given; SEED= repeats a run
	.venv/bin/python -m tests.chaos --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED))

docs:  ## write the generated references anew
	.venv/bin/python docs/generate.py
