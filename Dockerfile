# gptworks with a CPU build of PyTorch; for a GPU: docker build --build-arg TORCH=https://download.pytorch.org/whl/cu128 .
#
#   docker build --tag=gptworks .
#   docker run --rm -it -v "$PWD:/work" gptworks chat runs/small
FROM python:3.12-slim

ARG TORCH=https://download.pytorch.org/whl/cpu

ENV PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/cache/huggingface

WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src ./src

RUN pip install --index-url "$TORCH" "$(grep '^torch==' constraints.txt)" \
    && pip install -c constraints.txt '.[data,hf,serve]' \
    && useradd --create-home --uid 1000 gptworks \
    && mkdir -p /work /cache \
    && chown gptworks:gptworks /work /cache

USER gptworks
WORKDIR /work
VOLUME ["/work", "/cache"]
EXPOSE 8000

ENTRYPOINT ["gptworks"]
CMD ["--help"]
