def sample_texts(*a):
    return []
