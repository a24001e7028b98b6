"""Says what is wrong with manifests of Kubernetes, or with compose files, by the schemas of both.

    python schemas.py kubernetes FILE...
    python schemas.py compose FILE...

It prints how many documents it compared, or what is wrong, and ends with 1 then. Kinds that are not Kubernetes' own have no schema
here and are not counted.
"""

import sys

import yaml


def kubernetes(document):
    import kubernetes_validate

    if document["apiVersion"].startswith("monitoring.coreos.com/"):
        return False
    # Strict: a key that the API does not know is wrong, too.
    kubernetes_validate.validate(document, "1.37", strict=True)
    return True


def compose(document):
    from compose_pydantic.models import ComposeSpecification

    ComposeSpecification.model_validate(document)
    return True


compare = {"kubernetes": kubernetes, "compose": compose}[sys.argv[1]]
compared, wrong = 0, 0
for file in sys.argv[2:]:
    with open(file, encoding="utf-8") as stream:
        documents = list(yaml.safe_load_all(stream))
    for document in documents:
        try:
            compared += compare(document)
        except Exception as error:
            print(f"{file}: {error}")
            wrong += 1
if wrong:
    sys.exit(1)
print(f"{compared} documents are right")
