"""Any folder of media against the ffmpeg program: `python -m tests.foreign FOLDER`."""
