"""All settings of a process as one immutable value, with a section for each subject."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import attrs

from hs.settings.errors import Notice, Origin, SettingsError
from hs.settings.fields import Key, keys_of, setting, sub_block
from hs.settings.kinds import SIZE
from hs.settings.sections.accounts import (
    REAUTH,
    PasswordSettings,
    ReauthSettings,
    RegistrationSettings,
    SessionSettings,
)
from hs.settings.sections.appservices import AppserviceKeys, AppserviceSettings
from hs.settings.sections.connections import ConnectionSettings
from hs.settings.sections.consent import ConsentSettings
from hs.settings.sections.database import DATABASE, DATABASES, DatabaseSettings
from hs.settings.sections.features import (
    CacheBlock,
    PresenceSettings,
    TurnSettings,
    UserDirectorySettings,
)
from hs.settings.sections.federation import (
    FederationSettings,
    KeyExchangeSettings,
    PeerRequestSettings,
    RemoteRoomLimit,
)
from hs.settings.sections.identity import CaptchaSettings, DelegateSettings, LookupSettings
from hs.settings.sections.listeners import DEFAULT_LISTENERS, LISTENERS, Listener
from hs.settings.sections.login import ExistingSessionSettings, JwtSettings
from hs.settings.sections.mail import MailSettings, TemplateSettings
from hs.settings.sections.media import MediaSettings
from hs.settings.sections.outgoing import OutgoingSettings
from hs.settings.sections.previews import PreviewSettings
from hs.settings.sections.proposals import ProposalSettings
from hs.settings.sections.push import PushSettings
from hs.settings.sections.rate_limits import RateLimitSettings
from hs.settings.sections.retention import (
    RETENTION,
    AutoAcceptSettings,
    BlockingSettings,
    PrejoinSettings,
    RetentionSettings,
    ServerNoticeSettings,
    StatsSettings,
)
from hs.settings.sections.rooms import RoomSettings
from hs.settings.sections.server import (
    LoggingSettings,
    MetricsSettings,
    RedisSettings,
    SecretSettings,
    ServerSettings,
    SigningKeySettings,
    TlsSettings,
)
from hs.settings.sections.threepids import ThreepidSettings
from hs.settings.sections.workers import WorkerKeys, WorkerSettings


@attrs.frozen(kw_only=True)
class CacheSettings:
    """Caches."""

    event_cache_size: int = setting(
        SIZE,
        10 * 1024,
        "Number of events cached in memory (about 4 KiB each), before `caches.global_factor`.",
        shown="10K",
    )
    caches: CacheBlock = sub_block(CacheBlock, "Sizes and lifetimes of caches.")


@attrs.frozen(kw_only=True)
class BlockSettings:
    """The top-level keys that contain a block; Settings has a section for each block."""

    listeners: tuple[Listener, ...] = setting(
        LISTENERS,
        DEFAULT_LISTENERS,
        "Listeners of the main process; port 8008 on the loopback interface if missing.",
        shown=None,
    )
    database: DatabaseSettings = setting(
        DATABASE,
        DatabaseSettings(),
        "Database: `name` is `sqlite3` or `psycopg2`, `args` are the arguments of its driver.",
        shown={"name": "sqlite3", "args": {"database": "homeserver.db"}},
    )
    databases: DatabaseSettings | None = setting(
        DATABASES,
        None,
        "Synapse's form for several databases; read like `database` if it contains a single one.",
        shown={},
    )
    redis: RedisSettings = sub_block(
        RedisSettings, "Redis server through which processes communicate."
    )
    presence: PresenceSettings = sub_block(PresenceSettings, "Presence of users.")
    password_config: PasswordSettings = sub_block(PasswordSettings, "Log-in with a password.")
    ui_auth: ReauthSettings = setting(
        REAUTH,
        ReauthSettings(),
        "Time for which user-interactive authentication counts for further sensitive requests.",
        shown=0,
    )
    user_directory: UserDirectorySettings = sub_block(UserDirectorySettings, "User directory.")
    account_threepid_delegates: DelegateSettings = sub_block(
        DelegateSettings, "Services that validate third-party identifiers for this server."
    )
    push: PushSettings = sub_block(PushSettings, "Push notifications and unread counts.")
    email: MailSettings = sub_block(MailSettings, "SMTP server, and e-mail notifications.")
    login_via_existing_session: ExistingSessionSettings = sub_block(
        ExistingSessionSettings, "Log-in of another device with a token from a logged-in one."
    )
    jwt_config: JwtSettings = sub_block(JwtSettings, "Log-in with a JSON web token.")
    user_consent: ConsentSettings = sub_block(ConsentSettings, "Consent to terms of service.")
    templates: TemplateSettings = sub_block(
        TemplateSettings, "Custom templates of pages and e-mails."
    )
    retention: RetentionSettings = setting(
        RETENTION, RetentionSettings(), "Retention of messages.", shown={}
    )
    server_notices: ServerNoticeSettings = sub_block(ServerNoticeSettings, "Server notices.")
    auto_accept_invites: AutoAcceptSettings = sub_block(
        AutoAcceptSettings, "Automatic acceptance of invites."
    )
    room_prejoin_state: PrejoinSettings = sub_block(
        PrejoinSettings, "Room state that invited and knocking users receive."
    )
    stats: StatsSettings = sub_block(StatsSettings, "Statistics of rooms.")
    federation: PeerRequestSettings = sub_block(
        PeerRequestSettings,
        "Timeouts, retries and backoff of requests to other servers.",
    )
    limit_remote_rooms: RemoteRoomLimit = sub_block(
        RemoteRoomLimit, "Limit of the complexity of rooms that are joined through other servers."
    )


@attrs.frozen(kw_only=True)
class Settings:
    """The settings of this process.

    `listeners` are those of this process, main or worker. `folder` is the directory of the first
    file. `origins` are the files and lines of top-level keys. `notices` are warnings and notes for
    the administrator.
    """

    server: ServerSettings = ServerSettings()
    listeners: tuple[Listener, ...] = DEFAULT_LISTENERS
    connections: ConnectionSettings = ConnectionSettings()
    tls: TlsSettings = TlsSettings()
    database: DatabaseSettings = DatabaseSettings()
    redis: RedisSettings = RedisSettings()
    logging: LoggingSettings = LoggingSettings()
    caches: CacheSettings = CacheSettings()
    rate_limits: RateLimitSettings = RateLimitSettings()
    registration: RegistrationSettings = RegistrationSettings()
    sessions: SessionSettings = SessionSettings()
    passwords: PasswordSettings = PasswordSettings()
    reauth: ReauthSettings = ReauthSettings()
    presence: PresenceSettings = PresenceSettings()
    turn: TurnSettings = TurnSettings()
    signing_keys: SigningKeySettings = SigningKeySettings()
    secrets: SecretSettings = SecretSettings()
    rooms: RoomSettings = RoomSettings()
    user_directory: UserDirectorySettings = UserDirectorySettings()
    push: PushSettings = PushSettings()
    proposals: ProposalSettings = ProposalSettings()
    media: MediaSettings = MediaSettings()
    metrics: MetricsSettings = MetricsSettings()
    appservices: AppserviceSettings = AppserviceSettings()
    outgoing: OutgoingSettings = OutgoingSettings()
    federation: FederationSettings = FederationSettings()
    remote_rooms: RemoteRoomLimit = RemoteRoomLimit()
    peer_requests: PeerRequestSettings = PeerRequestSettings()
    key_exchange: KeyExchangeSettings = KeyExchangeSettings()
    delegates: DelegateSettings = DelegateSettings()
    captcha: CaptchaSettings = CaptchaSettings()
    lookups: LookupSettings = LookupSettings()
    previews: PreviewSettings = PreviewSettings()
    email: MailSettings = MailSettings()
    templates: TemplateSettings = TemplateSettings()
    threepids: ThreepidSettings = ThreepidSettings()
    existing_session: ExistingSessionSettings = ExistingSessionSettings()
    jwt: JwtSettings = JwtSettings()
    consent: ConsentSettings = ConsentSettings()
    retention: RetentionSettings = RetentionSettings()
    server_notices: ServerNoticeSettings = ServerNoticeSettings()
    auto_accept: AutoAcceptSettings = AutoAcceptSettings()
    prejoin: PrejoinSettings = PrejoinSettings()
    stats: StatsSettings = StatsSettings()
    blocking: BlockingSettings = BlockingSettings()
    workers: WorkerSettings = WorkerSettings()
    files: tuple[Path, ...] = ()
    folder: Path = Path()
    origins: Mapping[str, Origin] = attrs.field(default=MappingProxyType({}), repr=False)
    notices: tuple[Notice, ...] = ()
    digests: Mapping[str, str] = attrs.field(default=MappingProxyType({}), repr=False)

    @property
    def opened_listeners(self) -> tuple[Listener, ...]:
        """The listeners that this process opens; it has no manhole."""
        return tuple(listener for listener in self.listeners if listener.type != "manhole")

    def locate(self, error: SettingsError) -> SettingsError:
        """Return an error that was found after loading, with the file and line of each key."""
        return error.located(self.origins, Origin(file=self.files[0]) if self.files else Origin())


# The classes whose fields are top-level keys, with the section of the reference that lists them.
GROUPS: tuple[tuple[str, type, str], ...] = (
    ("server", ServerSettings, "Server"),
    ("blocks", BlockSettings, "Blocks"),
    ("connections", ConnectionSettings, "Server"),
    ("tls", TlsSettings, "TLS"),
    ("logging", LoggingSettings, "Logging"),
    ("caches", CacheSettings, "Caching"),
    ("rate_limits", RateLimitSettings, "Ratelimiting"),
    ("registration", RegistrationSettings, "Registration"),
    ("threepids", ThreepidSettings, "Registration"),
    ("sessions", SessionSettings, "User session management"),
    ("turn", TurnSettings, "TURN"),
    ("federation", FederationSettings, "Federation"),
    ("signing_keys", SigningKeySettings, "Signing keys"),
    ("key_exchange", KeyExchangeSettings, "Signing keys"),
    ("secrets", SecretSettings, "API configuration"),
    ("rooms", RoomSettings, "Rooms"),
    ("appservices", AppserviceKeys, "API configuration"),
    ("proposals", ProposalSettings, "Proposals"),
    ("media", MediaSettings, "Media store"),
    ("metrics", MetricsSettings, "Metrics"),
    ("outside", OutgoingSettings, "Server"),
    ("captcha", CaptchaSettings, "Registration"),
    ("lookups", LookupSettings, "Registration"),
    ("previews", PreviewSettings, "Media store"),
    ("blocking", BlockingSettings, "Homeserver blocking"),
    ("worker_keys", WorkerKeys, "Workers"),
)
_BLOCK_SECTIONS = {
    "listeners": "Server",
    "database": "Database",
    "databases": "Database",
    "redis": "Workers",
    "presence": "Server",
    "password_config": "Single sign-on integration",
    "ui_auth": "User session management",
    "user_directory": "Rooms",
    "account_threepid_delegates": "Registration",
    "push": "Rooms",
    "email": "Server",
    "templates": "Homeserver blocking",
    "login_via_existing_session": "User session management",
    "jwt_config": "Single sign-on integration",
    "user_consent": "Rooms",
    "retention": "Homeserver blocking",
    "server_notices": "Rooms",
    "auto_accept_invites": "Rooms",
    "room_prejoin_state": "API configuration",
    "stats": "Rooms",
    "federation": "Federation",
    "limit_remote_rooms": "Homeserver blocking",
}


def keys_with_fields() -> Iterator[Key]:
    """Yield the top-level keys that set a field, including a few without effect."""
    for _, cls, section in GROUPS:
        for key in keys_of(cls, section):
            is_block = cls is BlockSettings
            yield attrs.evolve(key, section=_BLOCK_SECTIONS[key.name] if is_block else section)
