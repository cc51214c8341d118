"""The samples in the documentation of Synapse's workers: settings of workers, and shared ones.

They stand as they are there, without the comments. A shared one is in force with the worker's file
that needs it.
"""

SHARED = """
listeners:
  - port: 9093
    bind_address: '127.0.0.1'
    type: http
    resources:
     - names: [replication]

worker_replication_secret: ""

redis:
    enabled: true
"""
ADDRESS_OF_MAIN = """
worker_replication_host: 127.0.0.1
worker_replication_http_port: 9093
"""
GENERIC = f"""
worker_app: synapse.app.generic_worker
worker_name: generic_worker1
{ADDRESS_OF_MAIN}
worker_main_http_uri: http://localhost:8008/

worker_listeners:
 - type: http
   port: 8083
   resources:
     - names: [client, federation]

worker_log_config: /etc/matrix-synapse/generic-worker-log.yaml
"""
PERSISTER_SHARED = """
instance_map:
    event_persister1:
        host: localhost
        port: 8034

stream_writers:
    events: event_persister1
"""
PERSISTER = f"""
worker_app: synapse.app.generic_worker
worker_name: event_persister1
{ADDRESS_OF_MAIN}
worker_listeners:
  - type: http
    port: 8034
    resources:
      - names: [replication]

  - type: http
    port: 8035
    resources:
      - names: [client]

worker_log_config: /etc/matrix-synapse/event-persister-log.yaml
"""
TWO_PERSISTERS = """
instance_map:
    event_persister1: {host: localhost, port: 8034}
    event_persister2: {host: localhost, port: 8036}
stream_writers:
    events:
        - event_persister1
        - event_persister2
"""
BACKGROUND_WORKER = f"""
worker_app: synapse.app.generic_worker
worker_name: background_worker
{ADDRESS_OF_MAIN}
worker_log_config: /etc/matrix-synapse/background-worker-log.yaml
"""
TWO_PUSHERS = """
start_pushers: False
pusher_instances:
    - pusher_worker1
    - pusher_worker2
"""
TWO_SENDERS = """
send_federation: False
federation_sender_instances:
    - federation_sender1
    - federation_sender2
"""
MEDIA_SHARED = """
enable_media_repo: False
media_instance_running_background_jobs: "media_worker"
"""
MEDIA = f"""
worker_app: synapse.app.media_repository
worker_name: media_worker
{ADDRESS_OF_MAIN}
worker_listeners:
 - type: http
   port: 8085
   resources:
     - names: [media]

worker_log_config: /etc/matrix-synapse/media-worker-log.yaml
"""


def worker_file(app: str, name: str) -> str:
    """Return the file of a worker without listeners."""
    return f"worker_app: synapse.app.{app}\nworker_name: {name}\n{ADDRESS_OF_MAIN}"


def assigned(key: str, name: str = "worker_name") -> str:
    """Return a shared setting that names a generic worker."""
    return f"{key}: {name}"
