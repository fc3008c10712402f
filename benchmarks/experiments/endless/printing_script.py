"""As quick as the endless script, but it lets go of the GIL over and over, each time for a moment."""

step = 0
while True:
    nrp.run_loop()
    step += 1
    if step % 4 == 0:
        print("step", step)
