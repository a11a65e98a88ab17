"""The demo model: R²-Tuning on the tiny CLIP of the emoji world, from scenes to the shipped bundle.

python -m training.demo.scenes    # draw and encode a pool of scenes
python -m training.demo.train     # train the R² block on videos composed of them
python -m training.demo.evaluate  # the table, in seen and unseen styles
python -m training.demo.ship      # export, quantise, put into r2rt/demo
"""
