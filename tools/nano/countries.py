"""Countries with their capitals, by continent: the table behind the capital and continent questions."""

from __future__ import annotations

# "country: capital"; a country that takes the article is written with it.
BY_CONTINENT = {
    "Europe": """
        Albania: Tirana; Andorra: Andorra la Vella; Austria: Vienna; Belarus: Minsk; Belgium: Brussels;
        Bosnia and Herzegovina: Sarajevo; Bulgaria: Sofia; Croatia: Zagreb; Cyprus: Nicosia;
        the Czech Republic: Prague; Denmark: Copenhagen; Estonia: Tallinn; Finland: Helsinki; France: Paris;
        Germany: Berlin; Greece: Athens; Hungary: Budapest; Iceland: Reykjavik; Ireland: Dublin; Italy: Rome;
        Kosovo: Pristina; Latvia: Riga; Liechtenstein: Vaduz; Lithuania: Vilnius; Luxembourg: Luxembourg City;
        Malta: Valletta; Moldova: Chisinau; Monaco: Monaco; Montenegro: Podgorica; the Netherlands: Amsterdam;
        North Macedonia: Skopje; Norway: Oslo; Poland: Warsaw; Portugal: Lisbon; Romania: Bucharest;
        Russia: Moscow; San Marino: San Marino; Serbia: Belgrade; Slovakia: Bratislava; Slovenia: Ljubljana;
        Spain: Madrid; Sweden: Stockholm; Switzerland: Bern; Ukraine: Kyiv; the United Kingdom: London;
        Vatican City: Vatican City""",
    "Asia": """
        Afghanistan: Kabul; Armenia: Yerevan; Azerbaijan: Baku; Bahrain: Manama; Bangladesh: Dhaka;
        Bhutan: Thimphu; Brunei: Bandar Seri Begawan; Cambodia: Phnom Penh; China: Beijing; Georgia: Tbilisi;
        India: New Delhi; Indonesia: Jakarta; Iran: Tehran; Iraq: Baghdad; Israel: Jerusalem; Japan: Tokyo;
        Jordan: Amman; Kazakhstan: Astana; Kuwait: Kuwait City; Kyrgyzstan: Bishkek; Laos: Vientiane;
        Lebanon: Beirut; Malaysia: Kuala Lumpur; the Maldives: Malé; Mongolia: Ulaanbaatar;
        Myanmar: Naypyidaw; Nepal: Kathmandu; North Korea: Pyongyang; Oman: Muscat; Pakistan: Islamabad;
        the Philippines: Manila;
        Qatar: Doha; Saudi Arabia: Riyadh; Singapore: Singapore; South Korea: Seoul;
        Sri Lanka: Sri Jayawardenepura Kotte; Syria: Damascus; Taiwan: Taipei; Tajikistan: Dushanbe;
        Thailand: Bangkok; Timor-Leste: Dili; Turkey: Ankara; Turkmenistan: Ashgabat;
        the United Arab Emirates: Abu Dhabi; Uzbekistan: Tashkent; Vietnam: Hanoi; Yemen: Sanaa""",
    "Africa": """
        Algeria: Algiers; Angola: Luanda; Benin: Porto-Novo; Botswana: Gaborone; Burkina Faso: Ouagadougou;
        Burundi: Gitega; Cameroon: Yaoundé; Cape Verde: Praia; the Central African Republic: Bangui;
        Chad: N'Djamena; the Comoros: Moroni; the Republic of the Congo: Brazzaville;
        the Democratic Republic of the Congo: Kinshasa; Djibouti: Djibouti; Egypt: Cairo;
        Equatorial Guinea: Malabo; Eritrea: Asmara; Eswatini: Mbabane; Ethiopia: Addis Ababa;
        Gabon: Libreville; the Gambia: Banjul; Ghana: Accra; Guinea: Conakry; Guinea-Bissau: Bissau;
        the Ivory Coast: Yamoussoukro; Kenya: Nairobi; Lesotho: Maseru; Liberia: Monrovia; Libya: Tripoli;
        Madagascar: Antananarivo;
        Malawi: Lilongwe; Mali: Bamako; Mauritania: Nouakchott; Mauritius: Port Louis; Morocco: Rabat;
        Mozambique: Maputo; Namibia: Windhoek; Niger: Niamey; Nigeria: Abuja; Rwanda: Kigali;
        São Tomé and Príncipe: São Tomé; Senegal: Dakar; the Seychelles: Victoria; Sierra Leone: Freetown;
        Somalia: Mogadishu; South Africa: Pretoria; South Sudan: Juba; Sudan: Khartoum; Tanzania: Dodoma;
        Togo: Lomé; Tunisia: Tunis; Uganda: Kampala; Zambia: Lusaka; Zimbabwe: Harare""",
    "North America": """
        Antigua and Barbuda: Saint John's; the Bahamas: Nassau; Barbados: Bridgetown; Belize: Belmopan;
        Canada: Ottawa; Costa Rica: San José; Cuba: Havana; Dominica: Roseau;
        the Dominican Republic: Santo Domingo; El Salvador: San Salvador; Grenada: Saint George's;
        Guatemala: Guatemala City; Haiti: Port-au-Prince; Honduras: Tegucigalpa; Jamaica: Kingston;
        Mexico: Mexico City; Nicaragua: Managua; Panama: Panama City; Saint Kitts and Nevis: Basseterre;
        Saint Lucia: Castries; Saint Vincent and the Grenadines: Kingstown;
        Trinidad and Tobago: Port of Spain; the United States: Washington""",
    "South America": """
        Argentina: Buenos Aires; Bolivia: Sucre; Brazil: Brasília; Chile: Santiago; Colombia: Bogotá;
        Ecuador: Quito; Guyana: Georgetown; Paraguay: Asunción; Peru: Lima; Suriname: Paramaribo;
        Uruguay: Montevideo; Venezuela: Caracas""",
    "Oceania": """
        Australia: Canberra; Fiji: Suva; Kiribati: Tarawa; the Marshall Islands: Majuro; Micronesia: Palikir;
        Nauru: Yaren; New Zealand: Wellington; Palau: Ngerulmud; Papua New Guinea: Port Moresby; Samoa: Apia;
        the Solomon Islands: Honiara; Tonga: Nuku'alofa; Tuvalu: Funafuti; Vanuatu: Port Vila""",
}


def countries() -> list[dict[str, str]]:
    """One fact per country: its name, its capital, its continent."""
    facts = []
    for continent, table in BY_CONTINENT.items():
        for entry in " ".join(table.split()).split("; "):
            country, capital = entry.split(": ")
            facts.append({"country": country, "capital": capital, "continent": continent})
    return facts
