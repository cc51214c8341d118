"""The whole of layout T2, nineteen processes, and T3: the same behind HAProxy.

HS_E2E_LAYOUT=T2 has end-to-end tests start all of them where they start three otherwise.
HS_E2E_LAYOUT=T3 also puts HAProxy before them, which sends each request to a random process.
"""

import os
from typing import Any

WHOLE_WORKERS = (
    "sync2", "persister2", "typing1", "to_device1", "account_data1", "receipts1", "presence1",
    "background1", "user_directory1", "appservice1", "pusher1", "pusher2", "federation_sender1",
    "federation_sender2", "media1", "media2",
)  # fmt: skip
WHOLE_SETTINGS: dict[str, Any] = {
    "stream_writers": {
        "events": ["persister1", "persister2"],
        "typing": "typing1",
        "to_device": "to_device1",
        "device_lists": "to_device1",
        "account_data": "account_data1",
        "receipts": "receipts1",
        "presence": "presence1",
    },
    "run_background_tasks_on": "background1",
    "update_user_directory_from_worker": "user_directory1",
    "notify_appservices_from_worker": "appservice1",
    "pusher_instances": ["pusher1", "pusher2"],
    "federation_sender_instances": ["federation_sender1", "federation_sender2"],
    "media_instance_running_background_jobs": "media1",
}


def is_whole() -> bool:
    """Return whether servers of layout T2 are to be started whole."""
    return os.environ.get("HS_E2E_LAYOUT") in ("T2", "T3")


def is_balanced() -> bool:
    """Return whether clients are to reach servers of layout T2 through HAProxy."""
    return os.environ.get("HS_E2E_LAYOUT") == "T3"
