"""Prints the documents of YAML files as a list in JSON. With --kubernetes, it first checks them against the schemas of Kubernetes, and
exits with 1 if one of them does not fit."""

import json
import sys

import yaml

# The oldest version that has all that the manifests use, and the newest that the library knows.
VERSIONS = ("1.30", "1.37")


def main(arguments):
    is_kubernetes = arguments[:1] == ["--kubernetes"]
    documents = []
    for path in arguments[is_kubernetes:]:
        with open(path, encoding="utf-8") as file:
            documents += yaml.safe_load_all(file)
    if is_kubernetes:
        # It is large, so the long run alone has it.
        import kubernetes_validate

        for document in documents:
            for version in VERSIONS:
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    name = f"{document.get('kind')} {document.get('metadata', {}).get('name')}"
                    sys.exit(f"{name}, Kubernetes {version}: {error.message} at {list(error.path)}")
    json.dump(documents, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
