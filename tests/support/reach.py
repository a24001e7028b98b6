"""Which elements of an index hnswlib does not find by their own vectors.

reach.py FOLDER SPACE DIMENSION EF     prints their labels, one a line

Runs in an environment of Chroma below 1.0, which has hnswlib as a module.
"""

import pickle
import sys

import hnswlib

folder, space, dimension, ef = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with open(f"{folder}/index_metadata.pickle", "rb") as file:
    metadata = pickle.load(file)
ids = metadata["id_to_label"] if isinstance(metadata, dict) else metadata.id_to_label
labels = sorted(ids.values())
index = hnswlib.Index(space=space, dim=dimension)
index.load_index(folder, is_persistent_index=True, max_elements=2 * max(labels) + 1000)
index.set_ef(ef)
vectors = index.get_items(labels)
for label, vector in zip(labels, vectors):
    found, _ = index.knn_query([vector], k=min(ef, len(labels)), num_threads=1)
    if label not in found[0]:
        print(label)
