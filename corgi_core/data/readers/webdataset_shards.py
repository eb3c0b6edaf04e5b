def read(path, caption_column=None):
    yield
